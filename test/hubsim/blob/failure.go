package blob

import (
	"crypto/rand"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
)

// failure is an error of the storage service ("Status and error codes" and
// "Blob service error codes" of its REST reference).
type failure struct {
	status  int
	code    string
	message string
}

// Error gives code and message.
func (f *failure) Error() string { return f.code + ": " + f.message }

var (
	errNoCredentials   = &failure{http.StatusUnauthorized, "NoAuthenticationInformation", "the request carries no signature"}
	errAuthentication  = &failure{http.StatusForbidden, "AuthenticationFailed", "the signature is wrong or not in force"}
	errPermission      = &failure{http.StatusForbidden, "AuthorizationPermissionMismatch", "the signature does not permit this"}
	errProtocol        = &failure{http.StatusForbidden, "AuthorizationProtocolMismatch", "the signature is for HTTPS only"}
	errNoContainer     = &failure{http.StatusNotFound, "ContainerNotFound", "there is no such container"}
	errContainerExists = &failure{http.StatusConflict, "ContainerAlreadyExists", "the container exists"}
	errNoBlob          = &failure{http.StatusNotFound, "BlobNotFound", "there is no such blob"}
	errBlobExists      = &failure{http.StatusConflict, "BlobAlreadyExists", "the blob exists"}
	errCondition       = &failure{http.StatusPreconditionFailed, "ConditionNotMet", "the blob is not the one of the condition"}
	errBlobType        = &failure{http.StatusBadRequest, "InvalidHeaderValue", "x-ms-blob-type must be BlockBlob"}
	errBlockID         = &failure{http.StatusBadRequest, "InvalidBlobOrBlock", "the block id must be Base64 of 1 to 64 bytes, as long as the others"}
	errBlockList       = &failure{http.StatusBadRequest, "InvalidBlockList", "the list names a block that is not there"}
	errTooManyBlocks   = &failure{http.StatusConflict, "BlockCountExceedsLimit", fmt.Sprintf("a blob may have %d blocks", maxBlocks)}
	errXML             = &failure{http.StatusBadRequest, "InvalidXmlDocument", "the body is not a block list"}
	errQuery           = &failure{http.StatusBadRequest, "InvalidQueryParameterValue", "the query cannot be read"}
	errRange           = &failure{http.StatusRequestedRangeNotSatisfiable, "InvalidRange", "the range starts after the end of the blob"}
	errNoLength        = &failure{http.StatusLengthRequired, "MissingContentLengthHeader", "the request needs a Content-Length"}
	errIncomplete      = &failure{http.StatusBadRequest, "RequestBodyIncomplete", "the body is shorter than its Content-Length"}
	errChecksum        = &failure{http.StatusBadRequest, "Md5Mismatch", "the body does not have the Content-MD5 given"}
	errUnsupported     = &failure{http.StatusBadRequest, "UnsupportedHttpVerb", "the bench's blob server cannot do this"}
)

// errFull is what the storage service, which has no end, does not know.
func errFull(limit int64) *failure {
	return &failure{http.StatusInsufficientStorage, "InsufficientStorage", fmt.Sprintf("the bench's blob server keeps at most %d bytes", limit)}
}

// fail writes an error as the storage service does. Answers to HEAD have no
// body.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	f, ok := errors.AsType[*failure](err)
	if !ok {
		f = &failure{http.StatusInternalServerError, "InternalError", err.Error()}
	}
	w.Header().Set("x-ms-error-code", f.code)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(f.status)
	if r.Method == http.MethodHead {
		return
	}
	body, _ := xml.Marshal(struct { // strings only: cannot fail
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: f.code, Message: f.message})
	_, _ = w.Write(append([]byte(xml.Header), body...)) // a client that is gone needs no answer
}

// newRequestID makes a GUID.
func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Package link sends leaves' messages through the real gateway over every kind
// of bad link to the hub, and judges what arrives: nothing acknowledged is lost,
// order is kept, and what comes twice is a tail of at most the window, after a
// break, with the same message id.
//
// The rows of the offline matrix are those of Azure IoT Edge's connectivity
// tests (Azure/iotedge, builds/e2e/connectivity.yaml), with seconds for minutes.
package link

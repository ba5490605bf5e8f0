package hubsim

// ExpireCertificate shows clients that connect from now on a certificate that
// ended an hour ago, while on.
func (h *Hub) ExpireCertificate(on bool) { h.certificates.expire.Store(on) }

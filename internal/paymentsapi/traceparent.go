package paymentsapi

import "net/http"

// traceparent returns the request's W3C trace context where it has a valid one of version 00, and
// otherwise nothing: a bad one must not fail a payment, nor travel on.
func traceparent(r *http.Request) string {
	values := r.Header["Traceparent"]
	if len(values) != 1 || !validTraceparent(values[0]) {
		return ""
	}
	return values[0]
}

// validTraceparent is ^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$ with neither id all zeros.
func validTraceparent(text string) bool {
	const traceEnd, spanEnd, end = 35, 52, 55 // of 00-<32>-<16>-<2>
	if len(text) != end || text[:3] != "00-" || text[traceEnd] != '-' || text[spanEnd] != '-' {
		return false
	}
	return isID(text[3:traceEnd]) && isID(text[traceEnd+1:spanEnd]) && isHex(text[spanEnd+1:])
}

func isID(text string) bool {
	for i := range len(text) {
		if text[i] != '0' {
			return isHex(text)
		}
	}
	return false
}

func isHex(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Package fault says what kind of failure an error is, where a caller must branch on it: the HTTP edge
// turns a class into a status, the durable workflow into a retry or a value. Everything else is a plain
// wrapped error.
package fault

import (
	"errors"
	"fmt"
)

// Class is the kind of a failure.
type Class int

// The classes. The zero value, Internal, is what an error without a class is.
const (
	Internal    Class = iota // ours to mend; its text is not for the caller
	Malformed                // cannot be read at all: 400
	Invalid                  // read, but breaks a rule: 422
	NotFound                 // 404
	Conflict                 // contradicts what is stored: 409
	TooLarge                 // over a size limit: 413
	Unsupported              // a media type that is not taken: 415
	Unavailable              // a dependency cannot be reached: 503, try again
)

// Error is an error with a class, and a text that may be shown to whoever caused it.
type Error struct {
	Class  Class
	Detail string
	// Fields names what is wrong with each field of a request, by JSON path.
	Fields map[string]string
	cause  error
}

// New makes an error of the class; its text is meant for the caller.
func New(class Class, format string, args ...any) *Error {
	return &Error{Class: class, Detail: fmt.Sprintf(format, args...)}
}

// Wrap gives cause the class. The text is for the caller, the cause for the log.
func Wrap(cause error, class Class, format string, args ...any) *Error {
	return &Error{Class: class, Detail: fmt.Sprintf(format, args...), cause: cause}
}

// InvalidFields makes an Invalid error out of what is wrong with each field; nil where nothing is.
func InvalidFields(fields map[string]string) error {
	if len(fields) == 0 {
		return nil
	}
	return &Error{Class: Invalid, Detail: "the request has invalid fields", Fields: fields}
}

// Error implements error.
func (e *Error) Error() string {
	text := e.Detail
	for name, problem := range e.Fields {
		text += "; " + name + ": " + problem
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// ClassOf returns the class of the outermost Error in err's chain, Internal where there is none.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Internal
}

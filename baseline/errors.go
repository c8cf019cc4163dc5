package baseline

import (
	"errors"
	"fmt"
	"strings"

	"gocloud.dev/gcerrors"
)

// ErrNoSet is wrapped by the error of whoever asks for a set that is not there.
var ErrNoSet = errors.New("there is no such set")

// CorruptError names a manifest or an object that is not what it was written as: nothing of it is given out.
type CorruptError struct {
	Name   string
	Reason string
}

func (e *CorruptError) Error() string { return fmt.Sprintf("%s: %s", e.Name, e.Reason) }

// Unusable tells it from a store that can't be read now: a later try comes to the same.
func (e *CorruptError) Unusable() bool { return true }

func corrupt(name, reason string, args ...any) error {
	return &CorruptError{Name: name, Reason: fmt.Sprintf(reason, args...)}
}

// ForeignError names a manifest or an object that belongs elsewhere: to another pipeline, or to another source.
type ForeignError struct {
	Name string
	// What it differs in ("pipeline", "source"), what it has there, and what was wanted.
	What, Has, Want string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s is of %s %q and not of %q: nothing of it is used; name the store and the set that belong to this one", e.Name, e.What, e.Has, e.Want)
}

// Unusable tells it from a store that can't be read now: a later try comes to the same.
func (e *ForeignError) Unusable() bool { return true }

// ForgedError names a manifest whose signature is missing or wrong.
type ForgedError struct{ Name, Reason string }

func (e *ForgedError) Error() string { return fmt.Sprintf("%s: %s", e.Name, e.Reason) }

// Unusable tells it from a store that can't be read now: a later try comes to the same.
func (e *ForgedError) Unusable() bool { return true }

// coded are the errors of S3's client, which say by a code what a server refused.
type coded interface{ ErrorCode() string }

// storeError says what was being done in the store and, where it can be told, what to change. It keeps to one line.
func storeError(doing string, err error) error {
	if err == nil {
		return nil
	}
	code := gcerrors.Code(err)
	var c coded
	if errors.As(err, &c) {
		switch c.ErrorCode() {
		case "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidToken", "XAdminUserNotFound":
			code = gcerrors.PermissionDenied
		}
	}
	switch code {
	case gcerrors.PermissionDenied:
		return fmt.Errorf("%s: the store refuses these credentials: check those in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, "+
			"AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY) and that they may list, read, write and delete there: %w", doing, lineError{err})
	case gcerrors.NotFound:
		return fmt.Errorf("%s: there is no such bucket, folder or object: check baseline.url: %w", doing, lineError{err})
	default:
		return fmt.Errorf("%s: %w", doing, lineError{err})
	}
}

// lineError is an error whose text is on one line, as errors of these clients are not.
type lineError struct{ error }

func (e lineError) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }
func (e lineError) Unwrap() error { return e.error }

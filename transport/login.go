package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// Login says who this client is to the brokers. Files are read again for each session, so that what is in them may be renewed under a
// running process; a line end at their end does not count.
type Login struct {
	Mechanism    string // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER; empty: no login
	User         string
	Password     string
	PasswordFile string
	OAuth        OAuth
}

// OAuth is where the tokens of OAUTHBEARER come from: a file that something else keeps fresh, or a token endpoint.
type OAuth struct {
	TokenFile        string
	TokenURL         string // for the grant "client credentials" (RFC 6749, 4.4)
	ClientID         string
	ClientSecret     string
	ClientSecretFile string
	Scopes           []string
	Extensions       map[string]string // sent with each token (RFC 7628, 3.1)
}

const (
	mechanismPlain = "PLAIN"
	mechanism256   = "SCRAM-SHA-256"
	mechanism512   = "SCRAM-SHA-512"
	mechanismOAuth = "OAUTHBEARER"
)

func mechanisms() []string {
	return []string{mechanismPlain, mechanism256, mechanism512, mechanismOAuth}
}

func (l Login) check() error {
	password := l.Password != "" || l.PasswordFile != ""
	switch {
	case l.Mechanism == "" && (l.User != "" || password):
		return fmt.Errorf("TRICKLE_KAFKA_SASL_USER or a password is set without TRICKLE_KAFKA_SASL_MECHANISM: set it to %s", strings.Join(mechanisms()[:3], ", "))
	case l.Mechanism == "" && l.OAuth.given():
		return errors.New("TRICKLE_KAFKA_OAUTH_… is set without TRICKLE_KAFKA_SASL_MECHANISM: set it to OAUTHBEARER")
	case l.Mechanism == "":
		return nil
	case !slices.Contains(mechanisms(), l.Mechanism):
		return fmt.Errorf("TRICKLE_KAFKA_SASL_MECHANISM %q: use %s", l.Mechanism, strings.Join(mechanisms(), ", "))
	case l.Mechanism == mechanismOAuth && (l.User != "" || password):
		return errors.New("TRICKLE_KAFKA_SASL_USER and a password are not for OAUTHBEARER: unset them and set TRICKLE_KAFKA_OAUTH_TOKEN_FILE or TRICKLE_KAFKA_OAUTH_TOKEN_URL")
	case l.Mechanism == mechanismOAuth:
		return l.OAuth.check()
	case l.OAuth.given():
		return fmt.Errorf("TRICKLE_KAFKA_OAUTH_… is set and TRICKLE_KAFKA_SASL_MECHANISM is %s: unset one, or set the other to OAUTHBEARER", l.Mechanism)
	case l.User == "":
		return fmt.Errorf("TRICKLE_KAFKA_SASL_MECHANISM is %s, and TRICKLE_KAFKA_SASL_USER is not set", l.Mechanism)
	case !password:
		return errors.New("TRICKLE_KAFKA_SASL_USER is set without a password: set TRICKLE_KAFKA_SASL_PASSWORD or TRICKLE_KAFKA_SASL_PASSWORD_FILE")
	}
	_, err := secret(l.Password, l.PasswordFile, "TRICKLE_KAFKA_SASL_PASSWORD")
	return err
}

func (o OAuth) given() bool {
	return o.TokenFile != "" || o.TokenURL != "" || o.ClientID != "" || o.ClientSecret != "" || o.ClientSecretFile != "" || len(o.Scopes) > 0 || len(o.Extensions) > 0
}

func (o OAuth) check() error {
	if (o.TokenFile == "") == (o.TokenURL == "") {
		return errors.New("OAUTHBEARER takes its token from TRICKLE_KAFKA_OAUTH_TOKEN_FILE or from TRICKLE_KAFKA_OAUTH_TOKEN_URL: set one of them")
	}
	if o.TokenFile != "" {
		_, err := secret("", o.TokenFile, "TRICKLE_KAFKA_OAUTH_TOKEN")
		return err
	}
	if u, err := url.Parse(o.TokenURL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("TRICKLE_KAFKA_OAUTH_TOKEN_URL is no address of a token endpoint: https://host/path")
	}
	if o.ClientID == "" {
		return errors.New("TRICKLE_KAFKA_OAUTH_TOKEN_URL is set without TRICKLE_KAFKA_OAUTH_CLIENT_ID")
	}
	_, err := secret(o.ClientSecret, o.ClientSecretFile, "TRICKLE_KAFKA_OAUTH_CLIENT_SECRET")
	return err
}

// secret is a value, or what its file holds. Variable is the name of the one; that of the other ends in _FILE.
func secret(value, file, variable string) (string, error) {
	switch {
	case value != "" && file != "":
		return "", fmt.Errorf("%s and %s_FILE are both set: unset one", variable, variable)
	case file == "" && value == "":
		return "", fmt.Errorf("neither %s nor %s_FILE is set: set one", variable, variable)
	case file == "":
		return value, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", variable, err)
	}
	if text = bytes.TrimRight(text, "\r\n"); len(text) == 0 {
		return "", fmt.Errorf("%s_FILE: %s is empty", variable, file)
	}
	return string(text), nil
}

// mechanism is nil without a login.
func (l Login) mechanism() sasl.Mechanism {
	password := func() (string, error) { return secret(l.Password, l.PasswordFile, "TRICKLE_KAFKA_SASL_PASSWORD") }
	login := func(context.Context) (scram.Auth, error) {
		p, err := password()
		return scram.Auth{User: l.User, Pass: p}, err
	}
	var m sasl.Mechanism
	switch l.Mechanism {
	case mechanismPlain:
		m = plain.Plain(func(context.Context) (plain.Auth, error) {
			p, err := password()
			return plain.Auth{User: l.User, Pass: p}, err
		})
	case mechanism256:
		m = scram.Sha256(login)
	case mechanism512:
		m = scram.Sha512(login)
	case mechanismOAuth:
		m = oauth.Oauth(l.OAuth.token())
	default:
		return nil
	}
	return telling{m}
}

// token returns what fetches a token for a session.
func (o OAuth) token() func(context.Context) (oauth.Auth, error) {
	if o.TokenFile != "" {
		return func(context.Context) (oauth.Auth, error) {
			t, err := secret("", o.TokenFile, "TRICKLE_KAFKA_OAUTH_TOKEN")
			return oauth.Auth{Token: t, Extensions: o.Extensions}, err
		}
	}
	return func(ctx context.Context) (oauth.Auth, error) {
		password, err := secret(o.ClientSecret, o.ClientSecretFile, "TRICKLE_KAFKA_OAUTH_CLIENT_SECRET")
		if err != nil {
			return oauth.Auth{}, err
		}
		c := clientcredentials.Config{ClientID: o.ClientID, ClientSecret: password, TokenURL: o.TokenURL, Scopes: o.Scopes}
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		t, err := c.Token(ctx)
		if err != nil {
			return oauth.Auth{}, fmt.Errorf("asking for a token at TRICKLE_KAFKA_OAUTH_TOKEN_URL: %w", oneLine(err))
		}
		return oauth.Auth{Token: t.AccessToken, Extensions: o.Extensions}, nil
	}
}

// oneLine leaves the endpoint's whole answer out of the error about it.
func oneLine(err error) error {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("%s %s %.200q; check TRICKLE_KAFKA_OAUTH_CLIENT_ID, its secret and TRICKLE_KAFKA_OAUTH_SCOPE", refused.Response.Status, refused.ErrorCode, refused.ErrorDescription)
}

// telling marks what fails at this end of a login, and says what a broker has against a token.
type telling struct{ sasl.Mechanism }

// loginError is that a login ended at this end of it.
type loginError struct{ err error }

func (e *loginError) Error() string { return e.err.Error() }

func (e *loginError) Unwrap() error { return e.err }

func (m telling) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	s, first, err := m.Mechanism.Authenticate(ctx, host)
	if err != nil {
		return nil, nil, &loginError{err}
	}
	return tellingSession{s, m.Name()}, first, nil
}

type tellingSession struct {
	sasl.Session
	mechanism string
}

func (s tellingSession) Challenge(answer []byte) (bool, []byte, error) {
	if s.mechanism == mechanismOAuth && len(answer) > 0 {
		// RFC 7628, 3.2.2: the broker's reasons. The client could only say that it has read them.
		return false, nil, &loginError{fmt.Errorf("the broker does not accept the token: %.500s", strings.ToValidUTF8(string(answer), "?"))}
	}
	done, next, err := s.Session.Challenge(answer)
	if err != nil {
		return false, nil, &loginError{err}
	}
	return done, next, nil
}

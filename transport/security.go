package transport

import (
	"cmp"
	"strings"
)

// Security is how brokers and this client prove to each other who they are. The zero value is a connection in clear without a login.
type Security struct {
	TLS   TLS
	Login Login
}

// Check finds what is missing, contradictory or unreadable. Its errors name the environment variable that the value comes from.
func (s Security) Check() error { return cmp.Or(s.TLS.check(), s.Login.check()) }

// Warnings are what works and should not be done.
func (s Security) Warnings() []string {
	var out []string
	switch {
	case s.TLS.Enabled || s.Login.Mechanism == "":
	case s.Login.Mechanism == mechanismPlain:
		out = append(out, "the password for Kafka travels in clear: set TRICKLE_KAFKA_TLS=true")
	case s.Login.Mechanism == mechanismOAuth:
		out = append(out, "the token for Kafka travels in clear: set TRICKLE_KAFKA_TLS=true")
	default:
		out = append(out, "the login at Kafka is without TLS, so messages travel in clear and the password can be guessed from what is overheard: set TRICKLE_KAFKA_TLS=true")
	}
	if strings.HasPrefix(s.Login.OAuth.TokenURL, "http:") {
		out = append(out, "the client secret travels in clear: TRICKLE_KAFKA_OAUTH_TOKEN_URL should begin with https:")
	}
	return out
}

// Principal is the name under which rights are granted to this client, as far as it can tell; "" where only the brokers know it.
func (s Security) Principal() string {
	switch {
	case s.Login.Mechanism == mechanismOAuth:
		return ""
	case s.Login.User != "":
		return "User:" + s.Login.User
	case s.TLS.CertFile != "":
		return "User:" + s.TLS.subject()
	default:
		return "User:ANONYMOUS"
	}
}

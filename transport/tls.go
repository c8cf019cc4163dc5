package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

const handshakeTimeout = 5 * time.Second // of connecting and agreeing on TLS, so that a listener without TLS is told from one that is away

// TLS says how connections to the brokers are secured. The files are PEM and are read again for each connection, so that certificates
// may be renewed under a running process.
type TLS struct {
	Enabled    bool
	CAFile     string // certificates of authorities; empty: the system's
	CertFile   string // this client's certificate, with its intermediates; with KeyFile
	KeyFile    string
	ServerName string // the name in the brokers' certificates; empty: the host of each address
}

func (t TLS) check() error {
	switch {
	case !t.Enabled && (t.CAFile != "" || t.CertFile != "" || t.KeyFile != "" || t.ServerName != ""):
		return errors.New("TRICKLE_KAFKA_TLS is false, and TRICKLE_KAFKA_CA_FILE, _CERT_FILE, _KEY_FILE or _SERVER_NAME is set: unset one or the other")
	case t.CertFile != "" && t.KeyFile == "":
		return errors.New("TRICKLE_KAFKA_CERT_FILE is set without TRICKLE_KAFKA_KEY_FILE: a certificate is of use only with its key")
	case t.CertFile == "" && t.KeyFile != "":
		return errors.New("TRICKLE_KAFKA_KEY_FILE is set without TRICKLE_KAFKA_CERT_FILE: name the key's certificate too")
	case !t.Enabled:
		return nil
	}
	c, err := t.config()
	if err != nil {
		return err
	}
	if len(c.Certificates) > 0 {
		if end := c.Certificates[0].Leaf.NotAfter; time.Now().After(end) {
			return fmt.Errorf("the certificate in TRICKLE_KAFKA_CERT_FILE (%s) expired on %s: renew it", t.CertFile, end.Format(time.DateOnly))
		}
	}
	return nil
}

// config reads the files.
func (t TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("TRICKLE_KAFKA_CA_FILE: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("TRICKLE_KAFKA_CA_FILE: %s holds no certificate in PEM; of a Java keystore make one with keytool -exportcert -rfc, of PKCS #12 with openssl pkcs12 -nokeys", t.CAFile)
		}
	}
	if t.CertFile == "" {
		return c, nil
	}
	cert, err := os.ReadFile(t.CertFile)
	if err != nil {
		return nil, fmt.Errorf("TRICKLE_KAFKA_CERT_FILE: %w", err)
	}
	key, err := os.ReadFile(t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("TRICKLE_KAFKA_KEY_FILE: %w", err)
	}
	switch {
	case !holds(cert, "CERTIFICATE"):
		return nil, fmt.Errorf("TRICKLE_KAFKA_CERT_FILE: %s holds no certificate in PEM; of PKCS #12 make one with openssl pkcs12 -nokeys", t.CertFile)
	case encrypted(key):
		return nil, fmt.Errorf("TRICKLE_KAFKA_KEY_FILE: the key in %s is encrypted; make one without a passphrase, for this user's eyes only, with openssl pkey", t.KeyFile)
	case !holds(key, "PRIVATE KEY"):
		return nil, fmt.Errorf("TRICKLE_KAFKA_KEY_FILE: %s holds no private key in PEM; of PKCS #12 make one with openssl pkcs12 -nocerts -nodes", t.KeyFile)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("TRICKLE_KAFKA_CERT_FILE and TRICKLE_KAFKA_KEY_FILE (%s, %s): %w", t.CertFile, t.KeyFile, err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

// holds tells whether a PEM file has a block whose type ends so.
func holds(text []byte, kind string) bool {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, kind) {
			return true
		}
	}
	return false
}

func encrypted(key []byte) bool {
	for block, rest := pem.Decode(key); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return true
		}
	}
	return false
}

// subject is the name in the client's certificate, which is who the brokers take this client for; empty without one.
func (t TLS) subject() string {
	if c, err := t.config(); err == nil && len(c.Certificates) > 0 {
		return c.Certificates[0].Leaf.Subject.String()
	}
	return ""
}

// dialer makes secured connections. While files that are being renewed don't fit together, the last ones that did are used.
type dialer struct {
	tls TLS
	log *slog.Logger

	mu   sync.Mutex
	last *tls.Config
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	config, err := d.config()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	config = config.Clone()
	config.ServerName = cmp.Or(config.ServerName, host)
	bounded, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(bounded, network, address)
	if err != nil {
		return nil, err
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(bounded); err != nil {
		_ = conn.Close() // the handshake's error is the one to tell
		return nil, &handshakeError{address, err}
	}
	return secured, nil
}

func (d *dialer) config() (*tls.Config, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	config, err := d.tls.config()
	switch {
	case err == nil:
		d.last = config
	case d.last == nil:
		return nil, err
	default:
		d.log.Warn("the files for TLS to Kafka can't be used; what was read before still is", "err", err)
	}
	return d.last, nil
}

// handshakeError is that client and broker did not agree on TLS.
type handshakeError struct {
	address string
	err     error
}

func (e *handshakeError) Error() string { return fmt.Sprintf("TLS with %s: %v", e.address, e.err) }

func (e *handshakeError) Unwrap() error { return e.err }

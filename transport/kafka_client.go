package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// newClient is where every client that logs in is made.
func (k *Kafka) newClient(opts ...kgo.Opt) (*kgo.Client, error) {
	if m := k.options.Security.Login.mechanism(); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return k.newAnonymous(opts...)
}

func (k *Kafka) newAnonymous(opts ...kgo.Opt) (*kgo.Client, error) {
	common := []kgo.Opt{
		kgo.SeedBrokers(k.options.Brokers...),
		kgo.ClientID(k.options.ClientID),
		kgo.WithLogger(newKafkaLogger(k.options.Logger)),
		kgo.WithHooks(k.options.Hooks...),
		kgo.MetadataMinAge(retryEvery), // a reader notices a broker's return at once
		kgo.RetryBackoffFn(func(tries int) time.Duration { return min(retryEvery*time.Duration(tries), 2*time.Second) }),
	}
	if k.options.Security.TLS.Enabled {
		common = append(common, kgo.Dialer(k.dialer.dial))
	}
	return kgo.NewClient(append(common, opts...)...)
}

// probe waits, no longer than the connect timeout, until a broker has answered under the address that the cluster gives it.
func (k *Kafka) probe(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, k.options.ConnectTimeout)
	defer cancel()
	began := time.Now()
	var last error
	for {
		err := k.client.Ping(bounded)
		if err == nil {
			err = k.reach(bounded)
		}
		if err == nil {
			return nil
		}
		if last == nil || bounded.Err() == nil {
			last = err
		}
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("connecting to Kafka at %s: %w", k.where(), ctx.Err())
		case !transient(err), disagreement(err), hangUp(err) && time.Since(began) > hangUps, !pause(bounded), bounded.Err() != nil:
			return k.explainConnect(ctx, last)
		}
	}
}

func (k *Kafka) where() string { return strings.Join(k.options.Brokers, ",") }

// strandedError is that a cluster answers where it was asked, and not at the addresses that it names for its brokers.
type strandedError struct {
	address string
	err     error
}

func (e *strandedError) Error() string { return e.err.Error() }

func (e *strandedError) Unwrap() error { return e.err }

// reach asks every broker under its advertised address, and is content with one.
func (k *Kafka) reach(ctx context.Context) error {
	meta, err := k.admin.BrokerMetadata(ctx)
	if err != nil || len(meta.Brokers) == 0 {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all errgroup.Group
	failures := make([]error, len(meta.Brokers))
	for i, b := range meta.Brokers {
		all.Go(func() error {
			if _, failures[i] = k.client.Broker(int(b.NodeID)).Request(ctx, kmsg.NewPtrApiVersionsRequest()); failures[i] == nil {
				cancel()
			}
			return nil
		})
	}
	_ = all.Wait() // the failures have been kept
	if slices.Contains(failures, nil) {
		return nil
	}
	b := meta.Brokers[0]
	return &strandedError{net.JoinHostPort(b.Host, fmt.Sprint(b.Port)), failures[0]}
}

// disagreement tells errors about TLS and the login: waiting does not help against them, other than against a broker that is away.
func disagreement(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		noTLS        tls.RecordHeaderError
		login        *loginError
	)
	return errors.As(err, &verification) || errors.As(err, &noTLS) || errors.As(err, &login) || alerted(err)
}

// hangUp tells that somebody is there who does not talk to this client. A broker that restarts does so too, for a moment.
func hangUp(err error) bool {
	var (
		network net.Error // also of what took too long
		answer  *kerr.Error
		tls     *handshakeError
	)
	return errors.As(err, &tls) || !errors.As(err, &network) && !errors.As(err, &answer)
}

// alerted tells that the other end of a TLS connection said why it ends it.
func alerted(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" // how crypto/tls marks an alert
}

// explainConnect says what an error about connecting means and which setting to look at.
func (k *Kafka) explainConnect(ctx context.Context, err error) error {
	s := k.options.Security
	where := "Kafka at " + k.where()
	var stranded *strandedError
	if errors.As(err, &stranded) {
		where += " names a broker at " + stranded.address + " (its advertised.listeners), which"
	}
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		noTLS     tls.RecordHeaderError
		login     *loginError
		handshake *handshakeError
		dns       *net.DNSError
	)
	var first *kgo.ErrFirstReadEOF
	if errors.As(err, &first) {
		err = first.Unwrap() // what it guesses beyond that is told better here
	}
	switch {
	case errors.As(err, &login):
		return fmt.Errorf("logging in to %s with %s: %w", "Kafka at "+k.where(), s.Login.Mechanism, err)
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return fmt.Errorf("%s refuses the login: %w; check TRICKLE_KAFKA_SASL_USER, its password, and that the broker knows them for %s", where, err, s.Login.Mechanism)
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		return fmt.Errorf("%s does not log in with %s%s: %w; set TRICKLE_KAFKA_SASL_MECHANISM", where, s.Login.Mechanism, but(k.offered(ctx)), err)
	case errors.Is(err, kerr.IllegalSaslState):
		return fmt.Errorf("%s takes no login here: %w; unset TRICKLE_KAFKA_SASL_MECHANISM, or name the listener with SASL in --brokers", where, err)
	case errors.As(err, &authority) && s.TLS.CAFile == "":
		return fmt.Errorf("%s shows a certificate of an authority that this system does not know: %w; set TRICKLE_KAFKA_CA_FILE to the authority's certificate", where, err)
	case errors.As(err, &authority):
		return fmt.Errorf("%s shows a certificate that none in TRICKLE_KAFKA_CA_FILE (%s) has signed: %w", where, s.TLS.CAFile, err)
	case errors.As(err, &host):
		return fmt.Errorf("%s shows a certificate for another name: %w; use a name that is in it, or set TRICKLE_KAFKA_SERVER_NAME to one", where, err)
	case errors.As(err, &invalid):
		return fmt.Errorf("%s shows a certificate that is not valid: %w; renew it at the broker, or check this machine's clock", where, err)
	case alerted(err) && s.TLS.CertFile == "":
		return fmt.Errorf("%s ends the connection: %w; if it wants a client certificate, set TRICKLE_KAFKA_CERT_FILE and TRICKLE_KAFKA_KEY_FILE", where, err)
	case alerted(err):
		return fmt.Errorf("%s ends the connection: %w; check the certificate in TRICKLE_KAFKA_CERT_FILE (%s), and that the broker's truststore has its authority", where, err, s.TLS.CertFile)
	case errors.As(err, &noTLS), errors.As(err, &handshake):
		return fmt.Errorf("%s does not answer to TLS: %w; if this listener has none, name the one that has in --brokers, or set TRICKLE_KAFKA_TLS=false", where, err)
	case !transient(err):
		return fmt.Errorf("%s: %w", where, err)
	case hangUp(err):
		return k.explainHangUp(ctx, where, err)
	case errors.As(err, &dns):
		return fmt.Errorf("%s can't be found: %w; check --brokers", where, dns)
	case stranded != nil:
		return fmt.Errorf("%s can't be reached from here: %w; set advertised.listeners at the broker to what clients reach", where, err)
	default:
		return fmt.Errorf("cannot reach %s: %w; check --brokers", where, err)
	}
}

// explainHangUp is about a broker that ends connections without a word that this client understands.
func (k *Kafka) explainHangUp(ctx context.Context, where string, err error) error {
	s := k.options.Security
	if !s.TLS.Enabled && k.speaksTLS(ctx) {
		return fmt.Errorf("%s wants TLS: %w; set TRICKLE_KAFKA_TLS=true, or name the listener without it in --brokers", where, err)
	}
	if s.Login.Mechanism != "" {
		return fmt.Errorf("%s hangs up: %w; check the login (TRICKLE_KAFKA_SASL_…)", where, err)
	}
	if offered := k.offered(ctx); len(offered) > 0 {
		return fmt.Errorf("%s wants a login: %w; set TRICKLE_KAFKA_SASL_MECHANISM to one of %s", where, err, strings.Join(offered, ", "))
	}
	return fmt.Errorf("%s hangs up: %w; check --brokers", where, err)
}

// speaksTLS asks one of the brokers; nothing is sent to it.
func (k *Kafka) speaksTLS(ctx context.Context) bool {
	bounded, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // who it is does not matter to whether it speaks TLS
	conn, err := d.DialContext(bounded, "tcp", k.options.Brokers[0])
	if err != nil {
		return alerted(err)
	}
	_ = conn.Close() // nothing was sent
	return true
}

// offered asks which logins the cluster takes; none where it does not say.
func (k *Kafka) offered(ctx context.Context) []string {
	client, err := k.newAnonymous()
	if err != nil {
		return nil
	}
	defer client.Close()
	bounded, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	ask := kmsg.NewPtrSASLHandshakeRequest()
	ask.Mechanism = "WHICH" // the answer to one that there is not names those that there are
	answer, err := ask.RequestWith(bounded, client)
	if err != nil {
		return nil
	}
	return answer.SupportedMechanisms
}

func but(offered []string) string {
	if len(offered) == 0 {
		return ""
	}
	return ", but with " + strings.Join(offered, ", ")
}

// pause waits a moment and reports false when the context ended meanwhile.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(retryEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package gateway

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"runtime"
	"time"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// User is the only user name that the gateway lets in.
const User = "rowcast"

// Engine computes the answer to a call. Do appends the answer's text to dst, which it may grow, and returns it. The context is cancelled,
// with a cause, when the caller is gone or its time is up. A call's Payload must not be written to and not be kept.
type Engine interface {
	Do(ctx context.Context, call *rowcast.Call, dst []byte) ([]byte, error)
}

// Validator judges artifacts before registration. Options are JSON in the form of ml.register_model's options; the report is JSON. An artifact that is
// not ONNX is converted: converted is what it became, nil where it stays as it is.
type Validator interface {
	ValidateUpload(ctx context.Context, artifact []byte, options []byte) (report, converted []byte, err error)
	ValidateStored(ctx context.Context, sha [32]byte, options []byte) (report, converted []byte, err error)
}

// Options configure a Gateway. Only Listeners, Engine and Credentials (or Refresh) are needed; a zero value stands for the default beside it.
type Options struct {
	Listeners []net.Listener // the gateway closes them in Stop
	Engine    Engine
	Validator Validator // nil: validation answers with an error
	Recorder  Recorder  // nil: predictions of models that are logged answer with an error

	Credentials Credentials
	// Refresh fetches the credentials again when a password or a call's code does not match. It is called at most once a second.
	Refresh func(ctx context.Context) (Credentials, error)
	// TLS is offered to clients that ask for it, and is demanded of clients on other hosts. nil: no TLS.
	TLS *tls.Config

	MaxStartupBytes  int           // bytes of a message before authentication; 10,000
	MaxMessageBytes  int           // bytes of a message afterwards; 64 MiB
	MaxBufferedBytes int64         // bytes of all large messages held at a time; 4 * MaxMessageBytes
	MaxUploadBytes   int64         // bytes of all uploads held at a time; 1 GiB
	MaxConnections   int           // 500
	Concurrency      int           // calls that run at a time; 2 * GOMAXPROCS, at least 4
	Queue            int           // calls that wait for one of those to end; 256. Negative: none
	Deadline         time.Duration // of a call that names none; 30 s
	AuthTimeout      time.Duration // from accept to authenticated; 10 s

	// Stalled is told the spec of a call that has ignored its cancellation for 5 s. It must not block.
	Stalled func(spec string)

	Logger  *slog.Logger // nil: discard
	Metrics *Metrics     // nil: unregistered ones
}

func (o Options) withDefaults() Options {
	if o.MaxStartupBytes <= 0 {
		o.MaxStartupBytes = 10_000
	}
	if o.MaxMessageBytes <= 0 {
		o.MaxMessageBytes = 64 << 20
	}
	if o.MaxBufferedBytes <= 0 {
		o.MaxBufferedBytes = 4 * int64(o.MaxMessageBytes)
	}
	if o.MaxUploadBytes <= 0 {
		o.MaxUploadBytes = 1 << 30
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = 500
	}
	if o.Concurrency <= 0 {
		o.Concurrency = max(4, 2*runtime.GOMAXPROCS(0))
	}
	switch {
	case o.Queue == 0:
		o.Queue = 256
	case o.Queue < 0:
		o.Queue = 0
	}
	if o.Deadline <= 0 {
		o.Deadline = 30 * time.Second
	}
	if o.AuthTimeout <= 0 {
		o.AuthTimeout = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return o
}

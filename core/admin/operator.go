package admin

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
)

const (
	// SocketName is the operators' socket in the data directory.
	SocketName = "admin.sock"
	// KeyName is the file beside it with what a client must show there.
	KeyName = "admin.key"

	maxBody = 64 << 10
	// maxOrder bounds an order that waits for plugins.
	maxOrder = 10 * time.Minute
)

// OperatorOptions say what operators may do, and where.
type OperatorOptions struct {
	// DataDir is where the socket and its key are made, both 0600: who may read the
	// server's data may give it orders.
	DataDir string
	Plugins core.PluginOperator
	Logger  zerolog.Logger
}

// Operator is the operators' listener: HTTP with JSON over a Unix socket. Beside the
// modes of its files it asks for a key that lies beside it, made anew at each start: a
// confined plugin of the same user may reach a socket on older kernels, but cannot
// read the file. Start and Stop are called once each.
type Operator struct {
	OperatorOptions
	http     *http.Server
	listener net.Listener
	key      string
	orders   context.Context // ends when the listener stops
	end      context.CancelFunc
	serving  sync.WaitGroup
}

// NewOperator makes a listener that listens once Start is called.
func NewOperator(o OperatorOptions) *Operator {
	p := &Operator{OperatorOptions: o}
	p.orders, p.end = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /plugins", func(w http.ResponseWriter, _ *http.Request) { answer(w, overviewOf(o.Plugins.Overview())) })
	mux.HandleFunc("GET /plugins/{name}", p.describe)
	mux.HandleFunc("POST /plugins/reload", p.order(func(ctx context.Context, _ *http.Request) (any, error) {
		if err := o.Plugins.Reload(ctx); err != nil {
			return nil, err
		}
		return overviewOf(o.Plugins.Overview()), nil
	}))
	mux.HandleFunc("POST /plugins/{name}/reset", p.order(func(_ context.Context, r *http.Request) (any, error) {
		return struct{}{}, o.Plugins.Reset(r.PathValue("name"))
	}))
	mux.HandleFunc("POST /plugins/{name}/rollback", p.order(func(ctx context.Context, r *http.Request) (any, error) {
		v, err := o.Plugins.Rollback(ctx, r.PathValue("name"))
		return Version(v), err
	}))
	mux.HandleFunc("POST /plugins/{name}/attach", p.order(p.attach))
	mux.HandleFunc("POST /plugins/{name}/detach", p.order(func(ctx context.Context, r *http.Request) (any, error) {
		return struct{}{}, o.Plugins.Detach(ctx, r.PathValue("name"))
	}))
	p.http = &http.Server{
		Handler: p.authenticated(mux), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	return p
}

// Start makes the key and the socket, and serves.
func (p *Operator) Start(context.Context) error {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	p.key = hex.EncodeToString(secret)
	var err error
	if p.listener, err = listen(p.DataDir); err != nil {
		return fmt.Errorf("listen for operators: %w", err)
	}
	if err := writePrivate(filepath.Join(p.DataDir, KeyName), []byte(p.key+"\n")); err != nil {
		return errors.Join(fmt.Errorf("write operators' key: %w", err), p.listener.Close())
	}
	p.serving.Go(func() {
		if err := p.http.Serve(p.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			p.Logger.Error().Err(err).Msg("Operators' listener failed")
		}
	})
	return nil
}

// Stop closes the listener, ends orders in flight and removes the files.
func (p *Operator) Stop(ctx context.Context) error {
	p.end()
	err := p.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, p.http.Close())
	}
	p.serving.Wait()
	for _, name := range []string{SocketName, KeyName} {
		if gone := os.Remove(filepath.Join(p.DataDir, name)); gone != nil && !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// listen makes the socket out of sight, closes it to everybody else and only then
// puts it in its place. What an earlier server left there is replaced: the data
// directory belongs to one server at a time.
func listen(dir string) (net.Listener, error) {
	hidden, err := os.MkdirTemp(dir, ".s")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(hidden) }()
	at := filepath.Join(hidden, "s")
	address, done, err := socketAddress(at)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it will have another name by then
	if err := os.Chmod(at, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if err := os.Rename(at, filepath.Join(dir, SocketName)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// writePrivate replaces a file in one step by one that only this user can read.
func writePrivate(path string, data []byte) error {
	part, err := os.CreateTemp(filepath.Dir(path), ".k") // 0600
	if err != nil {
		return err
	}
	_, err = part.Write(data)
	if err = errors.Join(err, part.Close()); err == nil {
		err = os.Rename(part.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part.Name()))
	}
	return nil
}

func (p *Operator) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || subtle.ConstantTimeCompare([]byte(shown), []byte(p.key)) != 1 {
			problem(w, http.StatusUnauthorized, codeDenied, "The key in "+KeyName+", beside the socket, is wanted as a bearer token.")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

func (p *Operator) describe(w http.ResponseWriter, r *http.Request) {
	d, err := p.Plugins.Plugin(r.PathValue("name"))
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, pluginOf(d))
}

func (p *Operator) attach(ctx context.Context, r *http.Request) (any, error) {
	raw, err := io.ReadAll(r.Body)
	var at Attachment
	if err == nil {
		err = json.Unmarshal(raw, &at)
	}
	if err != nil {
		return nil, fmt.Errorf("read attachment: %w", err)
	}
	return struct{}{}, p.Plugins.Attach(ctx, r.PathValue("name"), core.PluginAttachment(at))
}

// order runs what may take its time: it ends with the request, with the listener, or
// after ten minutes.
func (p *Operator) order(do func(context.Context, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), maxOrder)
		defer cancel()
		stop := context.AfterFunc(p.orders, cancel)
		defer stop()
		result, err := do(ctx, r)
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, result)
	}
}

// The codes of problems.
const (
	codeDenied   = "denied"
	codeNotFound = "not_found"
	codeConflict = "conflict"
	codeFailed   = "failed"
)

// refuse tells an operator why not: unlike a client, it may know everything.
func refuse(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, core.ErrNoPlugin):
		problem(w, http.StatusNotFound, codeNotFound, err.Error())
	case errors.Is(err, core.ErrNoFormer), errors.Is(err, core.ErrNotAttached):
		problem(w, http.StatusConflict, codeConflict, err.Error())
	default:
		problem(w, http.StatusUnprocessableEntity, codeFailed, err.Error())
	}
}

func problem(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	encode(w, Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: detail})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	encode(w, v)
}

func encode(w io.Writer, v any) {
	_ = json.NewEncoder(w).Encode(v) //nolint:errchkjson // our own types always encode, and the peer may be gone
}

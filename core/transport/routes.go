package transport

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// request is an HTTP request whose Host and sender have been checked.
type request struct {
	*http.Request
	remote core.Remote
	caller core.Principal // of routes that want a token
}

// answer is what a route gives back: a status with a body, or a fault.
type answer func(w http.ResponseWriter, r *request) (status int, body any, err error)

// routes is the table of docs/protocol.md §2.
func (t *Transport) routes() http.Handler {
	mux := http.NewServeMux()
	for route, methods := range map[string]map[string]answer{
		"/auth/register":        {http.MethodPost: t.limited(t.register)},
		"/auth/login":           {http.MethodPost: t.limited(t.login)},
		"/auth/logout":          {http.MethodPost: t.signedIn(t.logout)},
		"/auth/users/{user_id}": {http.MethodGet: t.signedIn(t.userKeys)},
		"/auth/keys":            {http.MethodPut: t.signedIn(t.publishKey)},
		"/active-users":         {http.MethodGet: t.signedIn(t.activeUsers)},
		"/messages":             {http.MethodGet: t.signedIn(t.messages)},
		"/commands":             {http.MethodGet: t.signedIn(t.listCommands)},
		"/commands/{name}":      {http.MethodPost: t.signedIn(t.runCommand)},
		"/healthz":              {http.MethodGet: t.healthz},
		"/readyz":               {http.MethodGet: t.readyz},
		"/ws":                   {http.MethodGet: t.webSocket},
	} {
		mux.Handle(route, t.methods(methods))
	}
	nowhere := t.methods(map[string]answer{"": notFound})
	mux.Handle("/", nowhere)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isClean(r.URL.Path) { // the mux would redirect it before the door has looked at the Host
			nowhere.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// isClean reports whether a path is spelled as a route is: from the root, without
// empty, "." and ".." parts.
func isClean(p string) bool {
	return path.IsAbs(p) && (path.Clean(p) == p || len(p) > 2 && path.Clean(p) == strings.TrimSuffix(p, "/"))
}

func notFound(http.ResponseWriter, *request) (int, any, error) {
	return 0, nil, statusError{http.StatusNotFound, fault.New(fault.InvalidRequest, "There is nothing here; the routes are in docs/protocol.md §2.")}
}

// statusError is a fault under another status than its code's own.
type statusError struct {
	status int
	fault  *fault.Error
}

func (e statusError) Error() string { return e.fault.Error() }

// Unwrap makes the fault findable.
func (e statusError) Unwrap() error { return e.fault }

// methods is the door of every plain route: Host, origin and method are checked,
// then the route is asked and its answer or fault written.
func (t *Transport) methods(routes map[string]answer) http.Handler {
	allowed := make([]string, 0, len(routes)+1)
	for m := range routes {
		allowed = append(allowed, m)
	}
	slices.Sort(allowed)
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		if !t.enter() {
			panic(http.ErrAbortHandler) // Stop has given up; the connection is closed without a word
		}
		defer t.requests.Done()
		secure(w.Header())
		r := &request{Request: hr, remote: t.remote(hr)}
		if err := t.admit(w, r, allowed); err != nil {
			t.writeFault(w, r, err)
			return
		}
		route := routes[hr.Method]
		if route == nil {
			route = routes[""]
		}
		if route == nil && hr.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if route == nil {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			t.writeFault(w, r, statusError{http.StatusMethodNotAllowed, fault.Newf(fault.InvalidRequest, "The method must be %s.", strings.Join(allowed, " or "))})
			return
		}
		status, body, err := route(w, r)
		switch {
		case err != nil:
			t.writeFault(w, r, err)
		case status != 0: // 0: the route has written by itself
			t.writeBody(w, status, body)
		}
	})
}

// admit checks Host and Origin. After DNS rebinding the Origin proves nothing, so
// the Host is checked on every request.
func (t *Transport) admit(w http.ResponseWriter, r *request, methods []string) error {
	if r.remote.Host == "" || !t.HostAllowed(r.remote.Host) {
		return statusError{http.StatusMisdirectedRequest, fault.New(fault.InvalidRequest, "The Host header does not name this server; its operator lists its names in server.hosts.")}
	}
	if r.ContentLength > wire.MaxBodyBytes { // also where no route would read it
		_, _ = io.CopyN(io.Discard, r.Body, 4*wire.MaxBodyBytes) // a peer that is still writing would lose the answer to a reset
		return bodyTooLarge()
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil // a program, or a page of our own
	}
	if !t.originAllowed(origin, r) {
		return fault.New(fault.Forbidden, "Pages of this origin may not use this server; its operator lists the allowed ones in server.allowed_origins.")
	}
	h := w.Header()
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Allow-Origin", origin)
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", strings.Join(methods, ", "))
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key")
		h.Set("Access-Control-Max-Age", "600")
	}
	return nil
}

// originAllowed compares scheme, host and port exactly. A page of the server's
// own origin is always allowed.
func (t *Transport) originAllowed(origin string, r *request) bool {
	scheme := "http://"
	if t.TLS != nil {
		scheme = "https://"
	}
	return origin == scheme+r.Host || slices.Contains(t.AllowedOrigins, origin)
}

// limited counts a request of /auth/* against its address.
func (t *Transport) limited(next answer) answer {
	return func(w http.ResponseWriter, r *request) (int, any, error) {
		if ok, retry := t.AuthLimit.Allow(addressKey(r.remote.Addr), t.Now()); !ok {
			return 0, nil, fault.New(fault.RateLimited, "Too many sign-ins from this address; wait a little.").WithRetryAfter(retry)
		}
		return next(w, r)
	}
}

// signedIn wants a good bearer token.
func (t *Transport) signedIn(next answer) answer {
	return func(w http.ResponseWriter, r *request) (int, any, error) {
		token, ok := bearer(r.Header.Get("Authorization"))
		if !ok {
			return 0, nil, errNoToken()
		}
		p, err := t.Tokens.Authenticate(r.Context(), token)
		if err != nil {
			return 0, nil, err
		}
		r.caller = p
		return next(w, r)
	}
}

func errNoToken() error {
	return fault.New(fault.AuthenticationFailed, "A token is needed: Authorization: Bearer and the token from POST /auth/login?verify=true.")
}

func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}

// body reads a bounded body.
func body(w http.ResponseWriter, r *request) ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxBodyBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, bodyTooLarge()
	case err != nil:
		return nil, fault.New(fault.InvalidRequest, "The body could not be read to its end.").WithCause(err)
	}
	return data, nil
}

func bodyTooLarge() error {
	return fault.Newf(fault.TooLarge, "The body must be at most %d bytes.", wire.MaxBodyBytes)
}

// answerTimeout bounds how long a peer may take to read an answer over HTTP, or
// one event of a stream.
const answerTimeout = 15 * time.Second

func hurry(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout)) // every connection of ours can
}

func (t *Transport) writeBody(w http.ResponseWriter, status int, body any) {
	hurry(w)
	if body == nil {
		w.WriteHeader(status)
		return
	}
	data, err := wire.Marshal(body)
	if err != nil {
		t.Logger.Error().Err(err).Msg("HTTP answer could not be encoded")
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data) // the peer may be gone; there is nobody else to tell
}

// writeFault writes a problem document (RFC 9457): what a stranger may see.
func (t *Transport) writeFault(w http.ResponseWriter, r *request, err error) {
	hurry(w)
	reference := uuid.NewString()
	f := fault.From(err, reference)
	if f.Code == fault.Internal && !errors.Is(err, context.Canceled) {
		t.Logger.Error().Err(err).Str("reference", reference).Str("path", r.URL.Path).Msg("Request failed inside the server")
	}
	t.metrics.httpFaults.WithLabelValues(string(f.Code)).Inc()
	problem := wire.NewProblem(f)
	if s, ok := errors.AsType[statusError](err); ok {
		problem.Status, problem.Title = s.status, http.StatusText(s.status)
	}
	h := w.Header()
	if problem.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="plugboard"`)
	}
	if problem.RetryAfterMS > 0 {
		h.Set("Retry-After", seconds(problem.RetryAfterMS))
	}
	data, _ := wire.Marshal(problem) // strings and numbers always encode
	h.Set("Content-Type", "application/problem+json")
	w.WriteHeader(problem.Status)
	_, _ = w.Write(data)
}

// secure sets the headers that keep a browser from making anything of an answer.
func secure(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
}

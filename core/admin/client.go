package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// ErrNoServer says that no server listens for operators in this data directory.
var ErrNoServer = errors.New("no server runs over this data directory")

// Client gives orders to the server of a data directory, as its operator. It may be
// used from any goroutine; Close ends its connections. Refusals are *Problem, a
// server that does not run is ErrNoServer.
type Client struct {
	dir  string
	key  string
	http *http.Client
}

// Dial makes a client of the server whose data directory this is. It reads the key and
// connects to nothing yet.
func Dial(dataDir string) (*Client, error) {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, fmt.Errorf("find data directory: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, KeyName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoServer, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read operators' key: %w", err)
	}
	c := &Client{dir: dir, key: strings.TrimSpace(string(key))}
	c.http = &http.Client{Transport: &http.Transport{DialContext: c.dial, DisableKeepAlives: true}}
	return c, nil
}

func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	address, done, err := socketAddress(filepath.Join(c.dir, SocketName))
	if err != nil {
		return nil, err
	}
	defer done()
	return new(net.Dialer).DialContext(ctx, "unix", address)
}

// Close ends the client's connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Overview is all plugins, by name.
func (c *Client) Overview(ctx context.Context) (o Overview, err error) {
	return o, c.do(ctx, http.MethodGet, "/plugins", nil, &o)
}

// Plugin is one plugin.
func (c *Client) Plugin(ctx context.Context, name string) (p Plugin, err error) {
	return p, c.do(ctx, http.MethodGet, "/plugins/"+url.PathEscape(name), nil, &p)
}

// Reload looks at the plugins directory now and waits for what follows from it.
func (c *Client) Reload(ctx context.Context) (o Overview, err error) {
	return o, c.do(ctx, http.MethodPost, "/plugins/reload", nil, &o)
}

// Reset gives a plugin a clean slate.
func (c *Client) Reset(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodPost, "/plugins/"+url.PathEscape(name)+"/reset", nil, nil)
}

// Rollback puts the former version in the place of the one that runs.
func (c *Client) Rollback(ctx context.Context, name string) (v Version, err error) {
	return v, c.do(ctx, http.MethodPost, "/plugins/"+url.PathEscape(name)+"/rollback", nil, &v)
}

// Attach has a plugin that runs under a debugger serve under this name.
func (c *Client) Attach(ctx context.Context, name string, at Attachment) error {
	return c.do(ctx, http.MethodPost, "/plugins/"+url.PathEscape(name)+"/attach", at, nil)
}

// Detach lets go of it.
func (c *Client) Detach(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodPost, "/plugins/"+url.PathEscape(name)+"/detach", nil, nil)
}

func (c *Client) do(ctx context.Context, method, path string, body, into any) error {
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://plugboard"+path, reader)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	res, err := c.http.Do(req)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			return fmt.Errorf("%w: %s", ErrNoServer, c.dir)
		}
		return fmt.Errorf("ask the server: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		p := &Problem{Status: res.StatusCode, Detail: res.Status}
		_ = json.NewDecoder(io.LimitReader(res.Body, maxBody)).Decode(p) // the status says enough
		return p
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

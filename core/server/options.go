package server

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core/command"
)

// makePrivate makes a directory that only this user may enter. One that is there
// already may be read by others, since everything the server puts into it is
// private by itself, but not written by them.
func makePrivate(dir string, log zerolog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	switch mode := info.Mode().Perm(); {
	case mode&0o022 != 0:
		return fmt.Errorf("data directory %s may be written by others (mode %04o): chmod 700 it", dir, mode)
	case mode&0o055 != 0:
		log.Warn().Str("dir", dir).Str("mode", fmt.Sprintf("%04o", mode)).Msg("Data directory may be listed by others, chmod 700 is better")
	}
	return nil
}

// maxRunDir leaves room for a plugin's directory and socket in the 108 bytes of a
// Unix socket address.
const maxRunDir = 48

// runDir is where plugins run: in the data directory, or, where its path is too
// long for a socket, in a directory of its own beside other temporary files,
// named after the data directory so that a later start finds and sweeps it.
func runDir(dataDir string) (string, error) {
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return "", fmt.Errorf("find data directory: %w", err)
	}
	dir := filepath.Join(abs, "run")
	if len(dir) > maxRunDir {
		sum := sha256.Sum256([]byte(abs))
		dir = filepath.Join(os.TempDir(), "plugboard-"+hex.EncodeToString(sum[:6]))
	}
	return dir, nil
}

// queryToken decides about ?token=: by itself only while listening on loopback.
func queryToken(c config.Server) bool {
	switch c.AllowQueryToken {
	case "on":
		return true
	case "loopback":
		host, _, err := net.SplitHostPort(c.Listen)
		if err != nil {
			return false
		}
		addr, err := netip.ParseAddr(host)
		return host == "localhost" || err == nil && addr.IsLoopback()
	}
	return false
}

// pluginSettings are the plugins' settings as they travel: one JSON object each.
func pluginSettings(settings map[string]map[string]any) (map[string][]byte, error) {
	out := make(map[string][]byte, len(settings))
	for name, object := range settings {
		raw, err := json.Marshal(object)
		if err != nil {
			return nil, fmt.Errorf("read plugins.settings.%s: %w", name, err)
		}
		out[name] = raw
	}
	return out, nil
}

func policies(access map[string]config.Access) map[string]command.Policy {
	out := make(map[string]command.Policy, len(access))
	for name, a := range access {
		out[name] = command.Policy{
			Roles: a.Roles, RequireSignature: a.RequireSignature, Rate: a.Rate, Timeout: a.Timeout,
			Enabled: a.Enabled, LogParams: a.LogParams,
		}
	}
	return out
}

// tlsConfig is nil with tls.mode off.
func (s *Server) tlsConfig() (*tls.Config, error) {
	if s.cfg.TLS.Mode != "files" {
		return nil, nil //nolint:nilnil // no TLS is no configuration
	}
	c := &certificate{certFile: s.cfg.TLS.CertFile, keyFile: s.cfg.TLS.KeyFile, now: time.Now}
	if _, err := c.get(nil); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: c.get}, nil
}

// reloadInterval is how often a handshake may look whether the files changed.
const reloadInterval = 10 * time.Second

// certificate is the pair of files behind tls.mode: files, read again when they
// change. A pair that does not load leaves the former one in force.
type certificate struct {
	certFile, keyFile string
	now               func() time.Time

	mu      sync.Mutex
	pair    *tls.Certificate
	changed time.Time // newest modification time of the two, as loaded
	looked  time.Time
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if c.pair != nil && now.Sub(c.looked) < reloadInterval {
		return c.pair, nil
	}
	c.looked = now
	changed, err := newest(c.certFile, c.keyFile)
	if err == nil && c.pair != nil && changed.Equal(c.changed) {
		return c.pair, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.certFile, c.keyFile)
	}
	if err != nil {
		if c.pair != nil {
			return c.pair, nil
		}
		return nil, fmt.Errorf("load TLS certificate: %w", err)
	}
	c.pair, c.changed = &pair, changed
	return c.pair, nil
}

func newest(files ...string) (time.Time, error) {
	var latest time.Time
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return time.Time{}, err
		}
		if !info.Mode().IsRegular() {
			return time.Time{}, errors.New(f + " is not a regular file")
		}
		if info.ModTime().After(latest) {
			latest = info.ModTime()
		}
	}
	return latest, nil
}

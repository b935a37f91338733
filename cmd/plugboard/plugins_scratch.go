package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/server"
	"github.com/plugboard/plugboard/sdk/client"
)

// scratchServer is a server in this process that keeps nothing, and a user of it.
type scratchServer struct {
	url     string
	plugins core.PluginOperator
	as      string // the identity, as --as takes it
	client  *client.Client
	ended   chan struct{} // closed when the server has; err is set before

	stop   context.CancelFunc
	err    error
	forget func() error // removes the identity; nil before it is made
}

// startScratch starts a server for what was built and signs a new user in.
func startScratch(ctx context.Context, l *editLoop, made *artifact) (s *scratchServer, err error) {
	cfg, err := scratchConfig(l, made)
	if err != nil {
		return nil, err
	}
	srv, err := server.Open(ctx, cfg, version, newAuthorLog(l.console))
	if err != nil {
		return nil, err
	}
	// The server outlives ctx: it stops when its user has gone.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s = &scratchServer{stop: stop, ended: make(chan struct{}), plugins: srv.Plugins()}
	serving := make(chan struct{})
	go func() {
		defer close(s.ended)
		s.err = srv.Run(running, func(*server.Server) { close(serving) })
	}()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	select {
	case <-serving:
	case <-s.ended:
		return nil, errors.New("the scratch server does not start")
	}
	s.url = "http://" + srv.Addr()
	return s, s.signIn(ctx)
}

// scratchGrants is all that a plugin can ask of a server.
var scratchGrants = []string{"server", "users", "commands", "kv", "send", "broadcast"}

// scratchConfig goes through a file like any other, so that what is derived and
// checked there is here, too.
func scratchConfig(l *editLoop, made *artifact) (config.Config, error) {
	grants := l.o.grants
	if !l.o.granted {
		grants = slices.Clone(scratchGrants)
		if slices.Contains(made.needs, "net") {
			grants = append(grants, "net")
		}
	}
	if l.o.observe {
		grants = append(slices.Clone(grants), "observe")
	}
	text, err := json.Marshal(map[string]any{
		"data_dir": filepath.Join(l.dir, "data"),
		"server":   map[string]any{"listen": l.o.listen, "admin_listen": "", "shutdown_grace": "3s"},
		"limits":   map[string]any{"messages_per_second": 10_000, "burst": 10_000},
		"plugins":  map[string]any{"dir": l.pluginsDir(), "grants": map[string]any{made.name: grants}},
	})
	if err != nil {
		return config.Config{}, fmt.Errorf("write scratch configuration: %w", err)
	}
	file := filepath.Join(l.dir, "plugboard.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return config.Config{}, fmt.Errorf("write scratch configuration: %w", err)
	}
	loaded, err := config.Load(config.Options{File: file})
	if err != nil {
		return config.Config{}, usageError{err.Error()}
	}
	if l.settings != nil {
		loaded.Config.Plugins.Settings[made.name] = l.settings
	}
	return loaded.Config, nil
}

// scratchUser is who the author is on a scratch server.
const scratchUser = "author"

// signInTimeout bounds what takes milliseconds.
const signInTimeout = 30 * time.Second

// signIn makes an identity where the other commands look for it, so that they can
// be used from another shell, and connects.
func (s *scratchServer) signIn(ctx context.Context) error {
	dir, err := (&clientOptions{server: s.url}).identities()
	if err != nil {
		return err
	}
	made := firstMissing(dir)
	id, err := createScratchIdentity(dir)
	if err != nil {
		return err
	}
	s.as = id.UserID()
	s.forget = func() error { return forgetIdentity(id.Path(), dir, made) }
	if s.client, err = client.New(client.Options{Server: s.url, Identity: id}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, signInTimeout)
	defer cancel()
	if err := s.client.Register(ctx); err != nil {
		return err
	}
	return s.client.Connect(ctx)
}

// createScratchIdentity leaves alone what another server at the same address has.
func createScratchIdentity(dir string) (*client.Identity, error) {
	name := scratchUser
	for n := 2; ; n++ {
		id, err := client.CreateIdentity(filepath.Join(dir, name+identitySuffix), name, "")
		if !errors.Is(err, fs.ErrExist) {
			return id, err
		}
		name = fmt.Sprintf("%s%d", scratchUser, n)
	}
}

// firstMissing is the highest directory of a path that does not exist, or "".
func firstMissing(dir string) string {
	missing := ""
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return missing
		}
		missing = at
	}
}

// forgetIdentity removes an identity with what lies beside it, and the directories
// from made on down to dir, which were made for it, as far as they are empty.
func forgetIdentity(path, dir, made string) error {
	files, err := filepath.Glob(path + "*")
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	if made == "" || err != nil {
		return err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if os.Remove(at) != nil || at == made { // others may have come meanwhile
			return nil //nolint:nilerr // it is theirs then
		}
	}
}

// close ends the user's connection and the server, and removes what it made outside
// of the scratch directory.
func (s *scratchServer) close() error {
	if s.client != nil {
		_ = s.client.Close() // never fails
	}
	s.stop()
	<-s.ended
	err := s.err
	if s.forget != nil {
		err = errors.Join(err, s.forget())
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/sdk/client"
)

// The environment of the command line client.
const (
	envServer = "PLUGBOARD_SERVER"
	envUser   = "PLUGBOARD_USER"
)

const defaultServer = "http://127.0.0.1:8080"

// clientOptions say who speaks to which server.
type clientOptions struct {
	server  string
	as      string
	timeout time.Duration
}

// bind adds the flags that every client command has.
func (o *clientOptions) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.server, "server", "", "server URL (default $"+envServer+", else "+defaultServer+")")
	f.StringVar(&o.as, "as", "", "identity to use (default $"+envUser+", else the only one there is)")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "how long to wait for an answer")
}

func (o *clientOptions) serverURL() string {
	if o.server != "" {
		return o.server
	}
	if s := os.Getenv(envServer); s != "" {
		return s
	}
	return defaultServer
}

// identities is the directory of the identities for one server: an identity should
// not be used on two (docs/e2ee.md §2).
func (o *clientOptions) identities() (string, error) {
	u, err := url.Parse(o.serverURL())
	if err != nil || u.Host == "" {
		return "", usageError{fmt.Sprintf("--server must be a URL such as %s, not %q", defaultServer, o.serverURL())}
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration directory: %w", err)
	}
	host := strings.NewReplacer(":", "_", "[", "", "]", "", "/", "_").Replace(strings.ToLower(u.Host))
	return filepath.Join(base, "plugboard", "identities", host), nil
}

const identitySuffix = ".json"

// identity opens the identity that is meant.
func (o *clientOptions) identity() (*client.Identity, error) {
	dir, err := o.identities()
	if err != nil {
		return nil, err
	}
	name := o.as
	if name == "" {
		name = os.Getenv(envUser)
	}
	if name == "" {
		if name, err = onlyIdentity(dir); err != nil {
			return nil, err
		}
	}
	id, err := client.OpenIdentity(filepath.Join(dir, filepath.Base(name)+identitySuffix))
	if errors.Is(err, os.ErrNotExist) {
		return nil, usageError{fmt.Sprintf("there is no identity %q for %s; plugboard register %s makes one", name, o.serverURL(), name)}
	}
	return id, err
}

// onlyIdentity is the name of the one identity in dir.
func onlyIdentity(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"+identitySuffix))
	if err != nil {
		return "", fmt.Errorf("list identities: %w", err)
	}
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), identitySuffix))
	}
	switch len(names) {
	case 0:
		return "", usageError{"there is no identity yet; plugboard register NAME makes one"}
	case 1:
		return names[0], nil
	}
	return "", usageError{fmt.Sprintf("there are several identities (%s); choose one with --as or %s", strings.Join(names, ", "), envUser)}
}

// with runs fn with a connection, within the time that --timeout leaves it.
func (o *clientOptions) with(cmd *cobra.Command, fn func(context.Context, *client.Client) error) error {
	c, _, err := o.dial(cmd)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // never fails
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	return fn(ctx, c)
}

// dial opens the identity and a connection; the caller closes the client.
func (o *clientOptions) dial(cmd *cobra.Command, more ...func(*client.Options)) (*client.Client, *client.Identity, error) {
	id, err := o.identity()
	if err != nil {
		return nil, nil, err
	}
	options := client.Options{Server: o.serverURL(), Identity: id}
	for _, m := range more {
		m(&options)
	}
	c, err := client.New(options)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		_ = c.Close() // never fails
		return nil, nil, err
	}
	return c, id, nil
}

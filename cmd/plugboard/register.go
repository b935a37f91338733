package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/sdk/client"
	"github.com/plugboard/plugboard/sdk/fault"
)

func newRegister(o *clientOptions) *cobra.Command {
	var username string
	cmd := &cobra.Command{
		Use:     "register NAME",
		GroupID: groupClient,
		Short:   "Make an identity, prove it and register it",
		Long: `Make an identity (an Ed25519 and an X25519 key), register it under a name and
sign in once to prove it. The keys stay in a file of mode 0600 on this machine.
Registering the same identity again is no error.`,
		Example: `  plugboard register alice
  plugboard register bob --username "Bob from the night shift"`,
		Args: args(1, 1, "register alice"),
	}
	o.bind(cmd)
	cmd.Flags().StringVar(&username, "username", "", "name that others are shown (default NAME)")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		id, created, err := o.openOrCreate(given[0], username)
		if err != nil {
			return err
		}
		c, err := client.New(client.Options{Server: o.serverURL(), Identity: id})
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }() // never fails
		ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
		defer cancel()
		if err := c.Register(ctx); err != nil {
			if created && fault.CodeOf(err) != fault.Internal {
				_ = os.Remove(id.Path()) // refused for good: keys that nobody knows are of no use
			}
			return err
		}
		if err := c.Connect(ctx); err != nil {
			return fmt.Errorf("prove the identity: %w", err)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "registered %s at %s\nkeys in %s\n", id.UserID(), o.serverURL(), id.Path())
		return err
	}
	return cmd
}

// openOrCreate opens the identity of a name, or makes it.
func (o *clientOptions) openOrCreate(name, username string) (id *client.Identity, created bool, err error) {
	dir, err := o.identities()
	if err != nil {
		return nil, false, err
	}
	path := filepath.Join(dir, filepath.Base(name)+identitySuffix)
	id, err = client.OpenIdentity(path)
	if errors.Is(err, os.ErrNotExist) {
		id, err = client.CreateIdentity(path, name, username)
		return id, err == nil, err
	}
	return id, false, err
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/sdk/client"
)

func newUsers(o *clientOptions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "users",
		GroupID: groupClient,
		Short:   "List who is connected",
		Example: `  plugboard users
  plugboard users --json | jq -r .user_id`,
		Args: args(0, 0, "users"),
	}
	o.bind(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		id, err := o.identity()
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
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		for after := ""; ; {
			page, err := c.Users(ctx, after)
			if err != nil {
				return err
			}
			for _, u := range page.Users {
				if asJSON {
					data, err := json.Marshal(u)
					if err != nil {
						return fmt.Errorf("encode user: %w", err)
					}
					_, _ = fmt.Fprintf(w, "%s\n", data) // Flush below tells
				} else {
					_, _ = fmt.Fprintf(w, "%s\t%s\tsince %s\n", u.UserID, printable(u.Username), u.ConnectedSince)
				}
			}
			if page.Total == 0 && !asJSON {
				_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "nobody is connected")
			}
			if after = page.Next; after == "" {
				return w.Flush()
			}
		}
	}
	return cmd
}

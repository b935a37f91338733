package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/sdk/client"
	"github.com/plugboard/plugboard/sdk/e2ee"
)

func newSend(o *clientOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "send USER TEXT",
		GroupID: groupClient,
		Short:   "Seal one message for a user and send it",
		Long: `Seal a message so that only USER can read it, and send it. The exit code is 0 when
the server has stored it durably; USER need not be connected. TEXT may be - to
read it from stdin.`,
		Example: `  plugboard send bob "hello"
  date | plugboard send bob - --as alice`,
		Args: args(2, 2, `send bob "hello"`),
	}
	o.bind(cmd)
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		text, err := readText(cmd, given[1])
		if err != nil {
			return err
		}
		return o.with(cmd, func(ctx context.Context, c *client.Client) error {
			sent, err := c.Send(ctx, given[0], []byte(text))
			if err != nil {
				return explainSend(given[0], err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "stored for %s as number %d (id %s)\n", given[0], sent.Seq, sent.ID)
			return err
		})
	}
	return cmd
}

func newBroadcast(o *clientOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "broadcast TEXT",
		GroupID: groupClient,
		Short:   "Send a public message to everybody who is connected",
		Long: `Send a message to all who are connected now. It is signed, but neither sealed nor
stored: the server reads it, and who is away misses it.`,
		Example: `  plugboard broadcast "hello all"`,
		Args:    args(1, 1, `broadcast "hello all"`),
	}
	o.bind(cmd)
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		text, err := readText(cmd, given[0])
		if err != nil {
			return err
		}
		return o.with(cmd, func(ctx context.Context, c *client.Client) error {
			n, err := c.Broadcast(ctx, text)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "sent to %d %s, this one included\n", n, plural(n, "connection"))
			return err
		})
	}
	return cmd
}

func plural(n uint64, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// readText is the argument, or stdin where it is "-".
func readText(cmd *cobra.Command, given string) (string, error) {
	if given != "-" {
		return given, nil
	}
	data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxParams))
	if err != nil {
		return "", fmt.Errorf("read message: %w", err)
	}
	return strings.TrimSuffix(string(data), "\n"), nil
}

// explainSend turns what a person must decide about into a sentence.
func explainSend(user string, err error) error {
	switch {
	case errors.Is(err, e2ee.ErrIdentityChanged):
		return fmt.Errorf("the server tells another identity for %s than the one you know; nothing was sent. "+
			"Ask %s, over another channel, whether they made a new one: %w", user, user, err)
	case errors.Is(err, e2ee.ErrRollback):
		return fmt.Errorf("the server tells an older key of %s than one you have seen; nothing was sent: %w", user, err)
	case errors.Is(err, client.ErrTooLarge):
		return usageError{err.Error()}
	}
	return err
}

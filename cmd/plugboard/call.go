package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/sdk/client"
)

func newCall(o *clientOptions) *cobra.Command {
	var sign, compact bool
	cmd := &cobra.Command{
		Use:     "call COMMAND [PARAMS]",
		GroupID: groupClient,
		Short:   "Run a command and print its result",
		Long: `Run a command of a plugin and print its result as JSON on stdout; the progress of
a streaming command goes to stderr, a line each. PARAMS is a JSON object, or - to
read it from stdin.`,
		Example: `  plugboard call ping
  plugboard call echo '{"text":"hi"}'
  plugboard call serverinfo --compact
  echo '{"text":"hi"}' | plugboard call echo - --as alice`,
		Args: args(1, 2, `call echo '{"text":"hi"}'`),
	}
	o.bind(cmd)
	cmd.Flags().BoolVar(&sign, "sign", false, "sign the command, as some commands require")
	cmd.Flags().BoolVar(&compact, "compact", false, "print the result in one line")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		params, err := readParams(cmd, given[1:])
		if err != nil {
			return err
		}
		options := []client.CallOption{client.OnProgress(func(p client.Progress) { printProgress(cmd.ErrOrStderr(), p) })}
		if sign {
			options = append(options, client.Signed())
		}
		return o.with(cmd, func(ctx context.Context, c *client.Client) error {
			result, err := c.Call(ctx, given[0], params, options...)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), result, compact)
		})
	}
	return cmd
}

// maxParams bounds what is read from stdin.
const maxParams = 1 << 20

func readParams(cmd *cobra.Command, given []string) (any, error) {
	if len(given) == 0 {
		return nil, nil //nolint:nilnil // no params are no params
	}
	text := []byte(given[0])
	if given[0] == "-" {
		var err error
		if text, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxParams)); err != nil {
			return nil, fmt.Errorf("read params: %w", err)
		}
	}
	text = bytes.TrimSpace(text)
	if !json.Valid(text) || len(text) == 0 || text[0] != '{' {
		return nil, usageError{`PARAMS must be one JSON object, for example: plugboard call echo '{"text":"hi"}'`}
	}
	return json.RawMessage(text), nil
}

func printProgress(w io.Writer, p client.Progress) {
	percent := ""
	if p.Percent != nil {
		percent = fmt.Sprintf("%3.0f%% ", *p.Percent)
	}
	_, _ = fmt.Fprintf(w, "%s%s\n", percent, printable(string(p.Data))) // a lost line of progress is no failure
}

func printJSON(w io.Writer, raw []byte, compact bool) error {
	var out bytes.Buffer
	var err error
	if compact {
		err = json.Compact(&out, raw)
	} else {
		err = json.Indent(&out, raw, "", "  ")
	}
	if err != nil {
		return errors.New("the server's result is not JSON")
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

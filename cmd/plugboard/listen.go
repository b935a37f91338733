package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/sdk/client"
	"github.com/plugboard/plugboard/sdk/wire"
)

func newListen(o *clientOptions) *cobra.Command {
	var asJSON bool
	var count int
	cmd := &cobra.Command{
		Use:     "listen",
		GroupID: groupClient,
		Short:   "Print what comes in, until interrupted",
		Long: `Print direct messages (opened and verified), broadcasts, receipts and notices, a
line each. What was stored while you were away comes first. A message is
acknowledged once it is printed. What a plugin of the server writes is marked
"(plugin)": it is the server's word and not sealed.`,
		Example: `  plugboard listen
  plugboard listen --as bob --json | jq -r 'select(.type=="direct").text'
  plugboard listen --count 1                 # end after one message`,
		Args: args(0, 0, "listen"),
	}
	o.bind(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.Flags().IntVar(&count, "count", 0, "end after so many direct messages and broadcasts (0: never)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, id, err := o.dial(cmd, reportRefused(cmd.ErrOrStderr()))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }() // never fails
		if !asJSON {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "listening as %s; Ctrl-C ends\n", id.UserID())
		}
		for e, err := range c.Events(cmd.Context()) {
			if errors.Is(err, context.Canceled) {
				return nil // the person's wish
			}
			if err != nil {
				return err
			}
			if err := printEvent(cmd.OutOrStdout(), e, asJSON); err != nil {
				return err
			}
			if isContent(e) && count > 0 {
				if count--; count == 0 {
					return nil
				}
			}
		}
		return nil
	}
	return cmd
}

// reportRefused tells on stderr of messages that could not be opened.
func reportRefused(w io.Writer) func(*client.Options) {
	return func(o *client.Options) {
		o.OnRefused = func(r client.Refused) {
			_, _ = fmt.Fprintf(w, "a message from %s was put aside: %s\n", printable(r.From), printable(r.Reason.Error()))
		}
	}
}

func isContent(e client.Event) bool {
	switch e.(type) {
	case *client.Message, *client.Broadcast:
		return true
	}
	return false
}

// eventLine is an event for programs.
type eventLine struct {
	Type       string `json:"type"`
	From       string `json:"from,omitempty"`
	Plugin     string `json:"plugin,omitempty"`
	To         string `json:"to,omitempty"`
	ID         string `json:"id,omitempty"`
	Seq        uint64 `json:"seq,omitempty"`
	Text       string `json:"text,omitempty"`
	Time       string `json:"time,omitempty"`
	Sealed     *bool  `json:"sealed,omitempty"`
	Verified   *bool  `json:"verified,omitempty"`
	Code       string `json:"code,omitempty"`
	ServerTime string `json:"server_time,omitempty"`
}

func lineOf(e client.Event) eventLine {
	switch e := e.(type) {
	case *client.Message:
		return eventLine{
			Type: wire.TypeDirect, From: e.From, Plugin: e.Plugin, ID: e.ID, Seq: e.Seq, Text: string(e.Text), Time: wire.FormatTime(e.SentAt),
			ServerTime: wire.FormatTime(e.ServerTime), Sealed: &e.Sealed,
		}
	case *client.Broadcast:
		return eventLine{
			Type: wire.TypeBroadcast, From: e.From, Plugin: e.Plugin, ID: e.ID, Text: e.Text, ServerTime: wire.FormatTime(e.ServerTime), Verified: &e.Verified,
		}
	case *client.Receipt:
		return eventLine{Type: wire.TypeReceipt, To: e.To, ID: e.ID, Time: e.At}
	case *client.Notice:
		return eventLine{Type: wire.TypeNotice, Code: e.Code, Text: e.Text}
	}
	return eventLine{}
}

func printEvent(w io.Writer, e client.Event, asJSON bool) error {
	if asJSON {
		data, err := json.Marshal(lineOf(e))
		if err != nil {
			return fmt.Errorf("encode event: %w", err)
		}
		_, err = w.Write(append(data, '\n'))
		return err
	}
	_, err := fmt.Fprintln(w, describe(e))
	return err
}

// describe is an event for people. Everything a stranger wrote is stripped of what
// could steer a terminal.
func describe(e client.Event) string {
	switch e := e.(type) {
	case *client.Message:
		from, label := e.From, ""
		switch {
		case e.Plugin != "": // the server speaks: there is nobody to have sealed it
			from, label = e.Plugin, " (plugin)"
		case !e.Sealed:
			label = " (NOT SEALED: the server has read it)"
		}
		return fmt.Sprintf("%s %s%s: %s", e.SentAt.Local().Format(time.TimeOnly), printable(from), label, printable(string(e.Text)))
	case *client.Broadcast:
		from, label := e.From, "to all, not verified"
		switch {
		case e.Plugin != "":
			from, label = e.Plugin, "plugin, to all"
		case e.Verified:
			label = "to all"
		}
		return fmt.Sprintf("%s %s (%s): %s", e.ServerTime.Local().Format(time.TimeOnly), printable(from), label, printable(e.Text))
	case *client.Receipt:
		return fmt.Sprintf("%s has received %s", printable(e.To), printable(e.ID))
	case *client.Notice:
		return "notice: " + printable(e.Text)
	}
	return ""
}

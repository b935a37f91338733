// Command notes is a plugin that asks of the server what its caller tells it to, for
// the tests of the capabilities. It is built under more than one name.
package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/plugboard/plugboard/sdk"
)

// name is set when it is built: -ldflags "-X main.name=memos".
var name = "notes"

type params struct {
	Op         string  `json:"op" jsonschema:"put, get, delete, list, send, broadcast or pid"`
	Key        string  `json:"key,omitempty" jsonschema:"the key, or the prefix to list"`
	Text       string  `json:"text,omitempty" jsonschema:"the value or message"`
	Repeat     int     `json:"repeat,omitempty" jsonschema:"how often the text is repeated in it"`
	User       string  `json:"user,omitempty" jsonschema:"the recipient"`
	IfRevision *uint64 `json:"if_revision,omitempty" jsonschema:"the revision to write over"`
	TTL        int     `json:"ttl,omitempty" jsonschema:"in milliseconds"`
	Times      int     `json:"times,omitempty" jsonschema:"how often to do it, until the first refusal"`
}

// result is how it went. Code is empty where the server did as it was asked.
type result struct {
	Code       string   `json:"code"`
	Message    string   `json:"message"`
	RetryAfter int64    `json:"retry_after"`
	Done       int      `json:"done"`
	Revision   uint64   `json:"revision"`
	Value      string   `json:"value"`
	Keys       []string `json:"keys"`
	PID        int      `json:"pid"`
}

func run(ctx context.Context, call sdk.Call, p params) (result, error) {
	p.Text = strings.Repeat(p.Text, max(p.Repeat, 1))
	var r result
	for range max(p.Times, 1) {
		err := r.do(ctx, call.Host, p)
		var refused *sdk.HostError
		switch {
		case errors.As(err, &refused):
			r.Code, r.Message, r.RetryAfter = refused.Code, refused.Message, refused.RetryAfter.Milliseconds()
			return r, nil
		case err != nil:
			return r, err
		}
		r.Done++
	}
	return r, nil
}

func (r *result) do(ctx context.Context, host sdk.Host, p params) (err error) {
	switch p.Op {
	case "put":
		var options []sdk.PutOption
		if p.IfRevision != nil {
			options = append(options, sdk.IfRevision(*p.IfRevision))
		}
		if p.TTL > 0 {
			options = append(options, sdk.TTL(time.Duration(p.TTL)*time.Millisecond))
		}
		r.Revision, err = host.KV().Put(ctx, p.Key, []byte(p.Text), options...)
	case "get":
		var e sdk.Entry
		e, err = host.KV().Get(ctx, p.Key)
		r.Revision, r.Value = e.Revision, string(e.Value)
	case "delete":
		if p.IfRevision != nil {
			return host.KV().DeleteIf(ctx, p.Key, *p.IfRevision)
		}
		return host.KV().Delete(ctx, p.Key)
	case "list":
		var entries []sdk.Entry
		entries, err = host.KV().List(ctx, p.Key)
		for _, e := range entries {
			r.Keys = append(r.Keys, e.Key)
		}
	case "send":
		return host.Send(ctx, p.User, p.Text)
	case "broadcast":
		return host.Broadcast(ctx, p.Text)
	case "pid":
		r.PID = os.Getpid()
	}
	return err
}

func main() {
	sdk.Serve(sdk.Plugin{
		Name: name, Version: "1.0.0", Summary: "Asks of the server what its caller tells it to",
		Needs:    []sdk.Capability{sdk.CapabilityKV, sdk.CapabilitySend, sdk.CapabilityBroadcast},
		Commands: []sdk.Command{sdk.Handle(name, "Asks of the server what its caller tells it to", run)},
	})
}

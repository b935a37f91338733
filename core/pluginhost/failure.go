package pluginhost

import (
	"errors"
	"math"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	maxMessageText   = 1 << 10
	maxDetailsBytes  = 16 << 10
	maxDetails       = 20
	maxRetryAfter    = time.Hour
	retryUnavailable = time.Second
)

// failureOf turns a plugin's Failure into what its caller gets. Only the codes of
// the contract (plugin.proto, Failure) are the plugin's to give; anything else is
// internal, its text for the log.
func failureOf(f *pluginpb.Failure) error {
	text := clip(clean(f.GetMessage()), maxMessageText)
	code := fault.Code(f.GetCode())
	switch code {
	case fault.CommandFailed, fault.InvalidParams, fault.Forbidden, fault.RateLimited, fault.CommandTimeout,
		fault.CommandCancelled, fault.Overloaded, fault.TooLarge, fault.UnknownCommand:
	default:
		return errors.New("plugin answered " + clip(clean(f.GetCode()), 64) + ": " + text)
	}
	if strings.TrimSpace(text) == "" {
		text = "The command failed and gave no reason."
	}
	out := fault.New(code, text)
	if ms := f.GetRetryAfterMs(); ms > 0 {
		out = out.WithRetryAfter(time.Duration(min(ms, maxRetryAfter.Milliseconds())) * time.Millisecond)
	}
	return withDetails(out, f.GetDetails())
}

// withDetails adds details of the shape that the code promises, or none.
func withDetails(out *fault.Error, raw []byte) *fault.Error {
	if len(raw) == 0 || len(raw) > maxDetailsBytes {
		return out
	}
	switch out.Code {
	case fault.InvalidParams:
		var list []fault.Violation
		if json.Unmarshal(raw, &list) != nil || len(list) == 0 {
			return out
		}
		for i := range list {
			list[i].Message = clip(clean(list[i].Message), maxMessageText)
		}
		return out.WithDetails(list[:min(len(list), maxDetails)])
	case fault.CommandFailed:
		if !isObject(raw, maxDetailsBytes) {
			return out
		}
		compact := jsontext.Value(raw).Clone()
		if compact.Compact() != nil {
			return out
		}
		return out.WithDetails(compact)
	}
	return out
}

// progressOf checks a part of a streaming answer; an empty one is null.
func progressOf(p *pluginpb.Progress) (core.Progress, bool) {
	out := core.Progress{Data: p.GetData(), Percent: p.Percent}
	if len(out.Data) == 0 {
		out.Data = []byte("null")
	}
	if out.Percent != nil && (math.IsNaN(*out.Percent) || *out.Percent < 0 || *out.Percent > 100) {
		return core.Progress{}, false
	}
	return out, jsontext.Value(out.Data).IsValid()
}

func unavailable(plugin, why string) *fault.Error {
	return fault.Newf(fault.PluginUnavailable, "Plugin %q %s.", plugin, why).WithRetryAfter(retryUnavailable)
}

// unknownOutcome is what the caller of a call gets that a plugin had begun when it
// ended.
func unknownOutcome(plugin string) *fault.Error {
	return fault.Newf(fault.PluginUnavailable, "Plugin %q stopped working in the middle of the call; whether the command took effect is not known.", plugin).
		WithRetryAfter(retryUnavailable)
}

func shuttingDown() *fault.Error {
	return fault.New(fault.ShuttingDown, "The server is shutting down; no command is started any more.")
}

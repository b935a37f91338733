package sdk

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	maxLogMessage = 16 << 10
	maxLogAttrs   = 64 << 10
)

// logHandler turns slog records into Log messages of the session.
type logHandler struct {
	session *session
	callID  string
	// steps replay With and WithGroup on the handler that formats a record.
	steps []func(slog.Handler) slog.Handler
}

func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelDebug }

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(inner slog.Handler) slog.Handler { return inner.WithAttrs(attrs) })
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return h.with(func(inner slog.Handler) slog.Handler { return inner.WithGroup(name) })
}

func (h *logHandler) with(step func(slog.Handler) slog.Handler) slog.Handler {
	c := *h
	c.steps = append(slices.Clip(c.steps), step)
	return &c
}

// Handle never blocks: the session drops the record when its queue is full.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	record := &pluginpb.Log{
		Level:      levelOf(r.Level),
		Message:    shorten(r.Message, maxLogMessage),
		CallId:     h.callID,
		TimeUnixMs: r.Time.UnixMilli(),
	}
	if r.Time.IsZero() {
		record.TimeUnixMs = time.Now().UnixMilli()
	}
	if r.NumAttrs() > 0 || len(h.steps) > 0 {
		attrs, err := h.attrs(ctx, r)
		if err != nil {
			return err
		}
		record.Attrs = attrs
	}
	h.session.log(record)
	return nil
}

// attrs formats the record's attributes as one JSON object. The JSON handler of the
// standard library knows groups, LogValuer and errors; what it writes of its own,
// time, level and message, is left out.
func (h *logHandler) attrs(ctx context.Context, r slog.Record) ([]byte, error) {
	var buf bytes.Buffer
	var inner slog.Handler = slog.NewJSONHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: withoutBuiltin})
	for _, step := range h.steps {
		inner = step(inner)
	}
	bare := slog.NewRecord(time.Time{}, r.Level, "", 0)
	r.Attrs(func(a slog.Attr) bool {
		bare.AddAttrs(a)
		return true
	})
	if err := inner.Handle(ctx, bare); err != nil {
		return nil, err
	}
	out := bytes.TrimSpace(buf.Bytes())
	if len(out) > maxLogAttrs {
		return []byte(`{"attrs":"dropped: above 64 KiB"}`), nil
	}
	return out, nil
}

func withoutBuiltin(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	_, isLevel := a.Value.Any().(slog.Level)
	if a.Key == slog.LevelKey && isLevel || a.Key == slog.MessageKey && a.Value.Equal(slog.StringValue("")) {
		return slog.Attr{}
	}
	return a
}

func levelOf(l slog.Level) pluginpb.Log_Level {
	switch {
	case l >= slog.LevelError:
		return pluginpb.Log_LEVEL_ERROR
	case l >= slog.LevelWarn:
		return pluginpb.Log_LEVEL_WARN
	case l >= slog.LevelInfo:
		return pluginpb.Log_LEVEL_INFO
	}
	return pluginpb.Log_LEVEL_DEBUG
}

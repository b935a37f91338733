package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

var _ core.HostServices = hostServices{}

// KVGet reads from what the plugin keeps.
func (h hostServices) KVGet(ctx context.Context, plugin, key string, now time.Time) (core.KVEntry, error) {
	return h.store.KVGet(ctx, plugin, key, now)
}

// KVPut writes to what the plugin keeps.
func (h hostServices) KVPut(ctx context.Context, plugin string, w *core.KVWrite, quota core.KVQuota, now time.Time) (uint64, error) {
	return h.store.KVPut(ctx, plugin, w, quota, now)
}

// KVDelete removes from what the plugin keeps.
func (h hostServices) KVDelete(ctx context.Context, plugin, key string, ifRevision *uint64, now time.Time) (bool, error) {
	return h.store.KVDelete(ctx, plugin, key, ifRevision, now)
}

// KVList lists what the plugin keeps.
func (h hostServices) KVList(ctx context.Context, plugin string, r core.KVRange, now time.Time) ([]core.KVEntry, bool, error) {
	return h.store.KVList(ctx, plugin, r, now)
}

// Send stores a message from a plugin and tells delivery after the commit. It is
// never sealed, since the server is who speaks: messages.require_encryption is a
// rule for users (docs/protocol.md §4).
func (h hostServices) Send(ctx context.Context, plugin, userID, text string) (core.SentMessage, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return core.SentMessage{}, fmt.Errorf("make message id: %w", err)
	}
	now := time.Now()
	m := &core.Message{
		From: core.PluginSender(plugin), To: userID, ID: id.String(), Timestamp: wire.FormatTime(now), ServerTime: now, Content: text,
	}
	m.Digest = sha256.Sum256(e2ee.PlainTranscript(m.From, m.To, m.ID, m.Timestamp, m.Content))
	longest := *m
	longest.Seq = wire.MaxInteger
	if err := h.fits(longest.Frame(), text); err != nil {
		return core.SentMessage{}, err
	}
	limit := h.cfg.Messages.MailboxLimit
	stored, err := h.store.Append(ctx, m, limit)
	switch {
	case errors.Is(err, core.ErrMailboxFull):
		return core.SentMessage{}, fault.Newf(fault.MailboxFull, "%q has %d messages waiting, which is the limit; try again when they were fetched.", userID, limit)
	case errors.Is(err, core.ErrNotFound):
		return core.SentMessage{}, fault.Newf(fault.UnknownUser, "There is no user %q.", userID)
	case errors.Is(err, core.ErrIDConflict):
		return core.SentMessage{}, fmt.Errorf("store message of plugin: id %s: %w", m.ID, err)
	case err != nil:
		return core.SentMessage{}, core.StoreFault(err)
	}
	m.Seq, m.ServerTime = stored.Seq, stored.ServerTime
	h.delivery.Publish(core.Committed{UserID: m.To, Seq: m.Seq, Message: m})
	return core.SentMessage{ID: m.ID, Seq: m.Seq}, nil
}

// Broadcast offers one frame from a plugin, encoded once, to every connection.
func (h hostServices) Broadcast(_ context.Context, plugin, text string) (core.Reach, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return core.Reach{}, fmt.Errorf("make message id: %w", err)
	}
	now := wire.FormatTime(time.Now())
	f := &wire.Broadcast{ID: id.String(), From: core.PluginSender(plugin), ServerTime: now, Timestamp: now, Content: text}
	if err := h.fits(f, text); err != nil {
		return core.Reach{}, err
	}
	frame := core.EncodeShared(f)
	var reach core.Reach
	h.hub.Each(func(s *core.Session) {
		if s.Outbox.Offer(frame) {
			reach.Queued++
			s.Sent.Add(1)
		} else {
			reach.Dropped++
		}
	})
	return reach, nil
}

// fits refuses a frame that is larger than clients are told frames are.
func (h hostServices) fits(f wire.Frame, text string) error {
	limit := int(h.cfg.Limits.MaxFrameBytes)
	if len(text) <= limit && len(f.Append(nil)) <= limit { // what is longer need not be written to know
		return nil
	}
	return fault.Newf(fault.TooLarge, "The text has %d bytes and does not fit into a frame of %d bytes with what goes around it; send less.", len(text), limit)
}

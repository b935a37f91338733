package client

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Sent says that a message is committed on the server's disk.
type Sent struct {
	ID string
	// Seq is its place in the recipient's mailbox.
	Seq  uint64
	Time time.Time // the server's
}

// maxSeals is how often one message is sealed: once, and once more for a key
// version or timestamp that the server does not take any more.
const maxSeals = 2

// Send seals a message for a user and returns when the server has committed it.
// While ctx lives it is sent again, under the same id, on every new connection:
// the server stores it once. Errors: *fault.Error of the server;
// e2ee.ErrIdentityChanged and e2ee.ErrRollback where the user's keys are not what
// they were; ErrTooLarge.
func (c *Client) Send(ctx context.Context, to string, message []byte) (Sent, error) {
	return c.SendAs(ctx, newID(), to, message)
}

// SendAs is Send under an id of the caller's choice: a repeated call with the same
// id and a lost answer stores nothing twice as long as the process lives.
func (c *Client) SendAs(ctx context.Context, id, to string, message []byte) (Sent, error) {
	if limit := e2ee.MaxMessage(int(c.Welcome().Limits.MaxFrameBytes)); c.Welcome().Limits.MaxFrameBytes > 0 && len(message) > limit {
		return Sent{}, fmt.Errorf("%w: it is %d bytes, this server takes %d", ErrTooLarge, len(message), limit)
	}
	for attempt := 1; ; attempt++ {
		frame, err := c.seal(ctx, id, to, message)
		if err != nil {
			return Sent{}, err
		}
		out, err := c.request(ctx, id, &pending{frame: frame.Append(nil), again: true})
		if code := fault.CodeOf(err); attempt < maxSeals && (code == fault.KeyVersion || code == fault.StaleTimestamp) {
			continue // nothing is stored under the id: seal anew (docs/e2ee.md §3)
		}
		if err != nil {
			return Sent{}, err
		}
		if out.ack == nil || out.ack.Status != wire.StatusStored {
			return Sent{}, errUnexpectedAnswer
		}
		at, err := wire.ParseTime(out.ack.Timestamp)
		if err != nil {
			return Sent{}, err
		}
		return Sent{ID: id, Seq: out.ack.Seq, Time: at}, nil
	}
}

func (c *Client) seal(ctx context.Context, id, to string, message []byte) (*wire.Direct, error) {
	keys, err := c.recipient(ctx, to)
	if err != nil {
		return nil, err
	}
	h := &e2ee.Header{
		From: c.o.Identity.UserID(), To: to, ID: id, Timestamp: wire.FormatTime(time.Now()), KeyVersion: keys.KeyVersion,
		Sender: c.o.Identity.PublicKey(), Recipient: keys.PublicKey, EncryptionKey: keys.EncryptionKey,
	}
	e, err := e2ee.Seal(h, c.o.Identity.signer(), message)
	if err != nil {
		return nil, fmt.Errorf("seal message to %s: %w", to, err)
	}
	return &wire.Direct{
		ID: id, To: to, Timestamp: h.Timestamp, KeyVersion: h.KeyVersion, Content: wire.EncodeBase64(e.Content),
		EncryptedKey: wire.EncodeBase64(e.EncryptedKey), EncryptionNonce: wire.EncodeBase64(e.Nonce), Signature: wire.EncodeBase64(e.Signature),
	}, nil
}

// recipient is the keys to seal for, fetched and checked now, so that a changed
// identity is noticed before the next message and not after. While the server
// cannot be reached it tries again, as Send promises, until ctx ends.
func (c *Client) recipient(ctx context.Context, userID string) (e2ee.Pin, error) {
	for failures := 0; ; failures++ {
		pin, err := c.Keys(ctx, userID)
		if err == nil {
			return pin, nil
		}
		if _, unreachable := errors.AsType[*url.Error](err); !unreachable || ctx.Err() != nil {
			return e2ee.Pin{}, err
		}
		if err := c.sleep(ctx, backoff(failures)); err != nil {
			return e2ee.Pin{}, err
		}
	}
}

// Keys fetches a user's key bundle and checks it against what is remembered of
// them. The first identity seen is pinned; another one is e2ee.ErrIdentityChanged
// until AcceptIdentity.
func (c *Client) Keys(ctx context.Context, userID string) (e2ee.Pin, error) {
	b, err := c.bundle(ctx, userID)
	if err != nil {
		return e2ee.Pin{}, err
	}
	pin, err := c.o.Identity.setPin(userID, func(known e2ee.Pin) (e2ee.Pin, error) { return b.Check(userID, known) })
	if err != nil {
		return e2ee.Pin{}, fmt.Errorf("check keys of %s: %w", userID, err)
	}
	return pin, nil
}

// AcceptIdentity pins the identity that the server tells now in place of the one
// remembered. Only a person may decide that, after comparing safety numbers.
func (c *Client) AcceptIdentity(ctx context.Context, userID string) error {
	b, err := c.bundle(ctx, userID)
	if err != nil {
		return err
	}
	_, err = c.o.Identity.setPin(userID, func(e2ee.Pin) (e2ee.Pin, error) { return b.Check(userID, e2ee.Pin{}) })
	return err
}

// SafetyNumber is what this user and another compare to know that nobody stands
// between them: the same sixty digits on both sides.
func (c *Client) SafetyNumber(ctx context.Context, userID string) (string, error) {
	pin, err := c.Keys(ctx, userID)
	if err != nil {
		return "", err
	}
	return e2ee.SafetyNumber(c.o.Identity.UserID(), c.o.Identity.PublicKey(), userID, pin.PublicKey), nil
}

func (c *Client) bundle(ctx context.Context, userID string) (*e2ee.Bundle, error) {
	if plugin := pluginOf(userID); plugin != "" {
		return nil, fault.Newf(fault.InvalidRequest, "%q is a plugin of the server: it has no keys and takes no messages; run its commands instead.", plugin)
	}
	if !wire.ValidUserID(userID) {
		return nil, fault.Newf(fault.InvalidRequest, "%q is no user id.", userID)
	}
	var k wire.UserKeys
	if err := c.get(ctx, "/auth/users/"+url.PathEscape(userID), &k); err != nil {
		return nil, fmt.Errorf("fetch keys of %s: %w", userID, err)
	}
	return &e2ee.Bundle{
		UserID: k.UserID, PublicKey: k.PublicKey, EncryptionKey: k.X25519PublicKey,
		KeyVersion: k.KeyVersion, CreatedAt: k.CreatedAt, Signature: k.KeySignature,
	}, nil
}

// identityOf is a peer's pinned identity key, pinned now where there is none.
func (c *Client) identityOf(ctx context.Context, userID string) ([]byte, error) {
	if known := c.o.Identity.Pin(userID); len(known.PublicKey) > 0 {
		return known.PublicKey, nil
	}
	pin, err := c.Keys(ctx, userID)
	if err != nil {
		return nil, err
	}
	return pin.PublicKey, nil
}

// isPermanent tells a message that can never be opened from one that could not be
// opened now.
func isPermanent(err error) bool {
	if _, refused := errors.AsType[*e2ee.RefusedError](err); refused {
		return true
	}
	f, ok := errors.AsType[*fault.Error](err)
	if ok && (f.Code == fault.UnknownUser || f.Code == fault.InvalidRequest) {
		return true
	}
	// Every reason to refuse a bundle counts, or a sender with a bad one would hold
	// up everybody else's mail.
	for _, refusal := range []error{
		errPlaintext, e2ee.ErrWrongUser, e2ee.ErrIdentityChanged, e2ee.ErrBundleShape, e2ee.ErrBundleSignature,
		e2ee.ErrRollback, e2ee.ErrKeyReplaced, e2ee.ErrIdentityKey, e2ee.ErrEncryptionKey,
	} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

var errPlaintext = errors.New("message is not sealed")

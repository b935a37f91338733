package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Append asks for the message and for the mailbox by a query each: joined to one
// row that is always there, SQLite prepares the query anew at every run, which
// takes longer than both.
const (
	insertMessageSQL = `INSERT INTO messages (from_user, to_user, message_id, seq, content, encrypted_key, encryption_nonce,
			key_version, timestamp, signature, digest, server_time)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	setLastSeqSQL = `UPDATE mailboxes SET last_seq = ? WHERE user_id = ?`
	findStoredSQL = `SELECT seq, server_time, digest FROM messages WHERE from_user = ? AND message_id = ?`
	mailboxSQL    = `SELECT last_seq, acked_seq FROM mailboxes WHERE user_id = ?`
	readSQL       = `SELECT seq, from_user, message_id, content, encrypted_key, encryption_nonce,
			key_version, timestamp, signature, digest, server_time
		FROM messages WHERE to_user = ? AND seq > ? ORDER BY seq LIMIT ?`
)

// Append stores a message under the recipient's next seq. The sender need not be
// a registered user.
func (s *Store) Append(ctx context.Context, m *core.Message, limit int) (core.Stored, error) {
	var out core.Stored
	err := s.write(ctx, func(t *tx) (err error) { out, err = appendMessage(t, m, limit); return err })
	if err != nil {
		return core.Stored{}, err
	}
	return out, nil
}

func appendMessage(t *tx, m *core.Message, limit int) (core.Stored, error) {
	known, err := findStored(t.row(findStoredSQL, m.From, m.ID), m.Digest)
	if !errors.Is(err, core.ErrNotFound) {
		return known, err
	}
	var b core.Mailbox
	err = t.row(mailboxSQL, m.To).Scan(&b.LastSeq, &b.AckedSeq)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return core.Stored{}, core.ErrNotFound
	case err != nil:
		return core.Stored{}, fmt.Errorf("find mailbox: %w", err)
	case b.LastSeq-b.AckedSeq >= uint64(max(0, limit)):
		return core.Stored{}, core.ErrMailboxFull
	}
	next := b.LastSeq + 1
	_, err = t.exec(insertMessageSQL, m.From, m.To, m.ID, next, m.Content, m.EncryptedKey, m.EncryptionNonce,
		m.KeyVersion, m.Timestamp, m.Signature, m.Digest[:], m.ServerTime.UnixMicro())
	if err != nil {
		return core.Stored{}, fmt.Errorf("insert message: %w", err)
	}
	if _, err := t.exec(setLastSeqSQL, next, m.To); err != nil {
		return core.Stored{}, fmt.Errorf("move mailbox: %w", err)
	}
	return core.Stored{Seq: next, ServerTime: fromMicros(m.ServerTime.UnixMicro())}, nil
}

// FindStored looks (from, id) up without waiting for the writer.
func (s *Store) FindStored(ctx context.Context, from, id string, digest [32]byte) (out core.Stored, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		out, err = findStored(s.readers.QueryRowContext(ctx, findStoredSQL, from, id), digest)
		return err
	})
	return out, err
}

// findStored reads the row of findStoredSQL as the answer to a repetition.
func findStored(row *sql.Row, digest [32]byte) (core.Stored, error) {
	var (
		out   core.Stored
		at    int64
		known []byte
	)
	err := row.Scan(&out.Seq, &at, &known)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return core.Stored{}, core.ErrNotFound
	case err != nil:
		return core.Stored{}, fmt.Errorf("find stored message: %w", err)
	case string(known) != string(digest[:]):
		return core.Stored{}, core.ErrIDConflict
	}
	out.ServerTime, out.Repeated = fromMicros(at), true
	return out, nil
}

// Mailbox returns the user's mailbox.
func (s *Store) Mailbox(ctx context.Context, userID string) (core.Mailbox, error) {
	var b core.Mailbox
	err := s.read(ctx, func(ctx context.Context) error {
		return s.readers.QueryRowContext(ctx, mailboxSQL, userID).Scan(&b.LastSeq, &b.AckedSeq)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return core.Mailbox{}, core.ErrNotFound
	}
	return b, wrapRead("find mailbox", err)
}

// Read returns messages with seq > after, in order: none where limit is below 1,
// and at least one, where there is one, whatever maxBytes says.
func (s *Store) Read(ctx context.Context, userID string, after uint64, limit, maxBytes int) (list []core.Message, err error) {
	if after > math.MaxInt64 {
		after = math.MaxInt64 // the driver has no larger integers; no seq is larger either
	}
	err = s.read(ctx, func(ctx context.Context) error {
		rows, err := s.readers.QueryContext(ctx, readSQL, userID, int64(after), max(0, limit))
		if err != nil {
			return err
		}
		size := 0
		return scanAll(rows, func() error {
			m := core.Message{To: userID}
			if err := scanMessage(rows, &m); err != nil {
				return err
			}
			size += len(m.Content)
			if len(list) > 0 && size > maxBytes {
				return errEnough
			}
			list = append(list, m)
			return nil
		})
	})
	if err != nil {
		return nil, wrapRead("read mailbox", err)
	}
	return list, nil
}

func scanMessage(rows *sql.Rows, m *core.Message) error {
	var (
		at     int64
		digest []byte
	)
	err := rows.Scan(&m.Seq, &m.From, &m.ID, &m.Content, &m.EncryptedKey, &m.EncryptionNonce,
		&m.KeyVersion, &m.Timestamp, &m.Signature, &digest, &at)
	if err != nil {
		return err
	}
	m.ServerTime = fromMicros(at)
	copy(m.Digest[:], digest)
	return nil
}

const (
	ackedSQL = `SELECT seq, from_user, message_id FROM messages
		WHERE to_user = ? AND seq > ? AND seq <= ? ORDER BY seq`
	setAckedSQL   = `UPDATE mailboxes SET acked_seq = ? WHERE user_id = ?`
	deliveredSQL  = `UPDATE messages SET status = 'delivered', acked_at = ?, receipt_timestamp = ? WHERE to_user = ? AND seq > ? AND seq <= ?`
	setReceiptSQL = `UPDATE messages SET receipt_timestamp = ?, receipt_signature = ? WHERE to_user = ? AND seq = ?`
)

// Ack moves the acknowledged seq forward. Of signed only timestamp and signature
// are taken; one for a seq that is not newly acknowledged is left out. It answers
// [core.ErrNotFound] for a user that does not exist.
func (s *Store) Ack(ctx context.Context, userID string, seq uint64, at time.Time, signed map[uint64]core.Receipt) ([]core.Receipt, error) {
	var out []core.Receipt
	err := s.write(ctx, func(t *tx) (err error) { out, err = ack(t, userID, seq, at, signed); return err })
	if err != nil {
		return nil, err
	}
	return out, nil
}

func ack(t *tx, userID string, seq uint64, at time.Time, signed map[uint64]core.Receipt) ([]core.Receipt, error) {
	var b core.Mailbox
	err := t.row(mailboxSQL, userID).Scan(&b.LastSeq, &b.AckedSeq)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, core.ErrNotFound
	case err != nil:
		return nil, fmt.Errorf("find mailbox: %w", err)
	case seq > b.LastSeq:
		return nil, core.ErrSeq
	case seq <= b.AckedSeq:
		return nil, nil
	}
	receipts, err := newReceipts(t, userID, b.AckedSeq, seq, wire.FormatTime(at))
	if err != nil {
		return nil, err
	}
	if _, err := t.exec(deliveredSQL, at.UnixMicro(), wire.FormatTime(at), userID, b.AckedSeq, seq); err != nil {
		return nil, fmt.Errorf("mark delivered: %w", err)
	}
	for i := range receipts {
		r := &receipts[i]
		own, ok := signed[r.Seq]
		if !ok {
			continue
		}
		r.Timestamp, r.Signature = own.Timestamp, own.Signature
		if _, err := t.exec(setReceiptSQL, r.Timestamp, r.Signature, userID, r.Seq); err != nil {
			return nil, fmt.Errorf("store receipt: %w", err)
		}
	}
	if _, err := t.exec(setAckedSQL, seq, userID); err != nil {
		return nil, fmt.Errorf("move mailbox: %w", err)
	}
	return receipts, nil
}

// newReceipts lists the messages after one seq up to another, receipted at now.
func newReceipts(t *tx, userID string, after, upTo uint64, now string) ([]core.Receipt, error) {
	rows, err := t.rows(ackedSQL, userID, after, upTo)
	if err != nil {
		return nil, fmt.Errorf("find acknowledged messages: %w", err)
	}
	var out []core.Receipt
	err = scanAll(rows, func() error {
		r := core.Receipt{To: userID, Timestamp: now}
		if err := rows.Scan(&r.Seq, &r.From, &r.ID); err != nil {
			return err
		}
		out = append(out, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find acknowledged messages: %w", err)
	}
	return out, nil
}

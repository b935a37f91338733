package sqlite_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/plugboard/plugboard/core/store/sqlite"
)

var benchContent = strings.Repeat("c", 1024)

func benchRecipients() []string {
	list := make([]string, 100)
	for i := range list {
		list[i] = fmt.Sprintf("user%d", i)
	}
	return list
}

// BenchmarkAppend: callers that each append one message after the other, to one
// hundred mailboxes.
func BenchmarkAppend(b *testing.B) {
	recipients := benchRecipients()
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := openWith(b, sqlite.Options{Path: newPath(b)}, recipients...)
			var (
				wg   sync.WaitGroup
				next atomic.Int64
			)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range callers {
				wg.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						m := newMessage(fmt.Sprintf("sender%d", i), recipients[n%100], id(int(n)))
						m.Content = benchContent
						if _, err := s.Append(context.Background(), m, 1<<30); err != nil {
							b.Errorf("append: %v", err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkFloor is what SQLite alone does with the same row and synchronous=FULL:
// nothing but the insert, by one goroutine, as many in a transaction as callers
// could share at best. BenchmarkAppend is judged against it, in the same run.
func BenchmarkFloor(b *testing.B) {
	for _, batch := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			path := newPath(b)
			recipients := benchRecipients()
			if err := openWith(b, sqlite.Options{Path: path}, recipients...).Close(); err != nil {
				b.Fatal(err)
			}
			c := connect(b, path)
			run(b, c, "PRAGMA synchronous=FULL")
			run(b, c, "PRAGMA cache_size=-65536")
			stmt, err := c.PrepareContext(context.Background(), `INSERT INTO messages (from_user, to_user, message_id, seq, content,
				encrypted_key, encryption_nonce, key_version, timestamp, signature, digest, server_time)
				VALUES (?, ?, ?, ?, ?, '', '', 1, '2026-03-01T12:00:00.000Z', '', ?, 1)`)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = stmt.Close() }() // the connection goes with it
			b.ResetTimer()
			for n := 0; n < b.N; {
				n = insertBatch(b, c, stmt, recipients, n, min(n+batch, b.N), batch)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			b.StopTimer()
		})
	}
}

func insertBatch(b *testing.B, c *sql.Conn, stmt *sql.Stmt, recipients []string, from, to, senders int) int {
	run(b, c, "BEGIN IMMEDIATE")
	for n := from; n < to; n++ {
		digest := sha256.Sum256([]byte(id(n)))
		from := fmt.Sprintf("sender%d", n%senders)
		if _, err := stmt.ExecContext(context.Background(), from, recipients[n%100], id(n), n+1, benchContent, digest[:]); err != nil {
			b.Fatal(err)
		}
	}
	run(b, c, "COMMIT")
	return to
}

package server_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/plugboard/plugboard/sdk/wire"
)

// BenchmarkEchoFloor is what a WebSocket costs by itself: the floor for the two
// benchmarks below, in the same run on the same machine.
func BenchmarkEchoFloor(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for {
			kind, data, err := ws.ReadMessage()
			if err != nil || ws.WriteMessage(kind, data) != nil {
				return
			}
		}
	}))
	defer server.Close()
	payload := []byte(strings.Repeat("x", 1024))
	for _, connections := range []int{1, 64} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			sockets := make([]*websocket.Conn, connections)
			for i := range sockets {
				ws, res, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
				if err != nil {
					b.Fatal(err)
				}
				_ = res.Body.Close()
				defer ws.Close()
				sockets[i] = ws
			}
			share(b, connections, func(i int) {
				if err := sockets[i].WriteMessage(websocket.TextMessage, payload); err != nil {
					b.Error(err)
				}
				if _, _, err := sockets[i].ReadMessage(); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// BenchmarkCommand is a command's way from a client through the server to a
// plugin process and back.
func BenchmarkCommand(b *testing.B) {
	h := newServer(b, "PLUGBOARD_LOG__LEVEL=error", "PLUGBOARD_LIMITS__MESSAGES_PER_SECOND=1000000", "PLUGBOARD_LIMITS__BURST=1000000", "PLUGBOARD_LIMITS__CONNECTIONS_PER_USER=100")
	alice := h.person("alice")
	for _, connections := range []int{1, 64} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			lines := make([]*line, connections)
			for i := range lines {
				lines[i] = alice.connect()
				defer lines[i].ws.Close()
			}
			var id atomic.Int64
			share(b, connections, func(i int) {
				lines[i].send(&wire.Command{ID: fmt.Sprintf("c%d", id.Add(1)), Command: "echo", Params: []byte(`{"text":"hi"}`)})
				want[*wire.Response](lines[i])
			})
		})
	}
}

// BenchmarkStoredDirect is a sealed message's way into the store, synchronous=full:
// sealed outside the clock, verified, committed, acknowledged to the sender and
// delivered to the recipient, who acknowledges it.
func BenchmarkStoredDirect(b *testing.B) {
	h := newServer(b, "PLUGBOARD_LOG__LEVEL=error", "PLUGBOARD_LIMITS__MESSAGES_PER_SECOND=1000000", "PLUGBOARD_LIMITS__BURST=1000000", "PLUGBOARD_MESSAGES__MAILBOX_LIMIT=1000000")
	for _, pairs := range []int{1, 50} {
		b.Run(fmt.Sprintf("pairs=%d", pairs), func(b *testing.B) {
			senders, receivers := make([]*line, pairs), make([]*line, pairs)
			frames := make([][]wire.Frame, pairs)
			prefix := strings.ReplaceAll(fmt.Sprintf("p%d-%d", pairs, b.N), " ", "")
			for i := range pairs {
				from, to := h.person(fmt.Sprintf("%s-from%d", prefix, i)), h.person(fmt.Sprintf("%s-to%d", prefix, i))
				senders[i], receivers[i] = from.connect(), to.connect()
				defer senders[i].ws.Close()
				defer receivers[i].ws.Close()
				keys := from.keys(to.id)
				for n := range b.N/pairs + 1 {
					frames[i] = append(frames[i], from.seal(fmt.Sprintf("m%d", n), keys, strings.Repeat("x", 512)))
				}
			}
			next := make([]int, pairs)
			share(b, pairs, func(i int) {
				senders[i].send(frames[i][next[i]])
				next[i]++
				for acked := false; !acked; { // receipts of earlier ones come in between
					_, acked = senders[i].next().(*wire.Ack)
				}
				d := want[*wire.Direct](receivers[i])
				receivers[i].send(&wire.MailboxAck{Seq: d.Seq})
			})
		})
	}
}

// share runs b.N rounds spread over n workers and reports their rate, and how long a
// round took at the median and the 99th percentile.
func share(b *testing.B, n int, round func(worker int)) {
	b.Helper()
	times := make([]time.Duration, b.N)
	b.ResetTimer()
	var workers sync.WaitGroup
	for i := range n {
		workers.Go(func() {
			for k := i; k < b.N; k += n {
				begin := time.Now()
				round(i)
				times[k] = time.Since(begin)
			}
		})
	}
	workers.Wait()
	b.StopTimer()
	slices.Sort(times)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rounds/s")
	b.ReportMetric(float64(quantile(times, 0.5).Microseconds()), "p50-µs")
	b.ReportMetric(float64(quantile(times, 0.99).Microseconds()), "p99-µs")
}

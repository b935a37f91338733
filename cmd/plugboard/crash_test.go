package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/client"
)

// crashRounds is how often the server is killed.
const crashRounds = 4

// killable is a server in a process of its own.
type killable struct {
	t       *testing.T
	address string
	data    string
	cmd     *exec.Cmd
}

func (k *killable) start() {
	k.t.Helper()
	k.cmd = exec.Command(os.Args[0], "serve")
	k.cmd.Env = append(os.Environ(), envRunMain+"=1", "PLUGBOARD_SERVER__LISTEN="+k.address, "PLUGBOARD_SERVER__ADMIN_LISTEN=",
		"PLUGBOARD_DATA_DIR="+k.data, "PLUGBOARD_PLUGINS__DIR="+os.Getenv(envPlugins),
		"PLUGBOARD_LIMITS__MESSAGES_PER_SECOND=100000", "PLUGBOARD_LIMITS__BURST=100000")
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if res, err := http.Get("http://" + k.address + "/healthz"); err == nil {
			_ = res.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatal("the server did not come up")
		}
	}
}

// kill ends the server without a word, and insists that its plugins end with it.
func (k *killable) kill() {
	k.t.Helper()
	if err := k.cmd.Process.Kill(); err != nil {
		k.t.Fatal(err)
	}
	_ = k.cmd.Wait() // "signal: killed" is what was asked for
	if left := pluginsLeft(k.data); len(left) > 0 {
		k.t.Errorf("plugins outlived the server: %v", left)
	}
}

// The server is killed again and again in the middle of a stream of messages.
// Every acknowledged message is there once, under the seq of its ack, and the
// seqs have no gaps.
func TestKilledServerLosesNothingItAcknowledged(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	k := &killable{t: t, address: "127.0.0.1:" + strconv.Itoa(port), data: filepath.Join(dir, "data")}
	k.start()
	defer func() { k.kill() }()

	const senders = 8
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	to := newUser(ctx, t, k.address, filepath.Join(dir, "bob.json"), "bob")
	sending, pause := context.WithCancel(ctx)
	var acked sync.Map // id → seq
	var count atomic.Int64
	var all sync.WaitGroup
	for i := range senders {
		from := newUser(ctx, t, k.address, filepath.Join(dir, fmt.Sprintf("sender%d.json", i)), fmt.Sprintf("sender%d", i))
		all.Go(func() {
			for n := 0; sending.Err() == nil; n++ {
				id := fmt.Sprintf("s%d-%d", i, n)
				// The wait ends with the test, not with the stream: what was begun is
				// sent again over every crash until it is acknowledged.
				sent, err := from.SendAs(ctx, id, "bob", []byte(id))
				if err != nil {
					t.Errorf("send %s: %v", id, err)
					return
				}
				acked.Store(id, sent.Seq)
				count.Add(1)
			}
		})
	}
	for round := range crashRounds {
		wait(t, func() bool { return count.Load() > int64(round+1)*100 })
		jitter, err := rand.Int(rand.Reader, big.NewInt(int64(50*time.Millisecond)))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(jitter.Int64())) // a random moment is the point
		k.kill()
		k.start()
	}
	wait(t, func() bool { return count.Load() > int64(crashRounds+1)*100 })
	pause()
	all.Wait()

	seen := make(map[string]uint64)
	next := uint64(1)
	for m, err := range to.Messages(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Seq != next {
			t.Fatalf("got seq %d, want %d", m.Seq, next)
		}
		next++
		if at, twice := seen[m.ID]; twice || m.ID != string(m.Text) {
			t.Fatalf("%s came under %d and again under %d with %q", m.ID, at, m.Seq, m.Text)
		}
		seen[m.ID] = m.Seq
		if int64(len(seen)) == count.Load() {
			break
		}
	}
	acked.Range(func(id, seq any) bool {
		if seen[id.(string)] != seq.(uint64) {
			t.Errorf("%s was acknowledged under %d, came under %d", id, seq, seen[id.(string)])
		}
		return true
	})
	t.Logf("%d messages acknowledged over %d crashes", count.Load(), crashRounds)
	var pong struct{ Pong bool }
	result, err := to.Call(ctx, "ping", nil)
	if err == nil {
		err = json.Unmarshal(result, &pong)
	}
	if err != nil || !pong.Pong {
		t.Errorf("after the crashes ping answers %s, %v", result, err)
	}
}

// newUser registers a user and connects.
func newUser(ctx context.Context, t *testing.T, address, path, name string) *client.Client {
	t.Helper()
	id, err := client.CreateIdentity(path, name, "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Options{Server: "http://" + address, Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.Register(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

func wait(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for a minute")
		}
	}
}

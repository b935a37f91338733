package sqlite_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/store/sqlite"
)

// appenderEnv makes the test binary a process that appends messages to the named
// database until it is killed.
const appenderEnv = "PLUGBOARD_TEST_APPENDER"

var crashRecipients = []string{"bob", "carol"}

// runAppender prints "from id to seq" for each message once it is acknowledged.
func runAppender(path string) int {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, sqlite.Options{Path: path})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, id := range crashRecipients {
		if err := createUser(ctx, s, id); err != nil && !errors.Is(err, core.ErrExists) {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	session := &core.SessionRow{ConnID: fmt.Sprint(os.Getpid()), UserID: "bob", ConnectedAt: time.Now()}
	if err := s.OpenSession(ctx, session); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	failed := make(chan error)
	for i := range 16 {
		go func() {
			for n := 0; ; n++ {
				m := newMessage(fmt.Sprintf("sender%d-%d", os.Getpid(), i), crashRecipients[n%2], fmt.Sprintf("m%d", n))
				stored, err := s.Append(ctx, m, 1<<30)
				if err != nil {
					failed <- err
					return
				}
				fmt.Printf("%s %s %s %d\n", m.From, m.ID, m.To, stored.Seq) // one write, so one whole line
			}
		}()
	}
	fmt.Fprintln(os.Stderr, <-failed)
	return 1
}

// crash runs an appender, kills it after acks acknowledgements and returns what it
// had printed until then.
func crash(t *testing.T, path string, acks int) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), appenderEnv+"="+path)
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for in := bufio.NewReader(stdout); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			break // what follows the last whole line does not count
		}
		if lines = append(lines, strings.TrimSpace(line)); len(lines) == acks {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed, as it should be
	if len(lines) < acks {
		t.Fatalf("appender ended after %d of %d acknowledgements: %s", len(lines), acks, stderr.String())
	}
	return lines
}

// TestCrash: whatever was acknowledged before a kill -9 is there, once, and the
// seqs have no gap.
func TestCrash(t *testing.T) {
	path := newPath(t)
	acked := map[string]int{} // "from id to seq"
	for round := range 4 {
		for _, line := range crash(t, path, 200+100*round) {
			acked[line]++
		}
		var log bytes.Buffer
		s := open(t, sqlite.Options{Path: path, Logger: zerolog.New(&log)})
		if !strings.Contains(log.String(), "Database is sound") {
			t.Errorf("log after a kill: got %q, want the file to be checked", log.String())
		}
		found := map[string]int{}
		for _, user := range crashRecipients {
			list, err := s.Read(t.Context(), user, 0, 1<<30, 1<<30)
			if err != nil {
				t.Fatalf("read: %v", err)
			}
			for i, m := range list {
				if m.Seq != uint64(i+1) {
					t.Fatalf("seq of message %d of %s: got %d, want no gap", i+1, user, m.Seq)
				}
				found[fmt.Sprintf("%s %s %s %d", m.From, m.ID, m.To, m.Seq)]++
			}
			if b, err := s.Mailbox(t.Context(), user); err != nil || b.LastSeq != uint64(len(list)) {
				t.Fatalf("mailbox of %s: got %+v, %v, want last seq %d", user, b, err, len(list))
			}
		}
		for line := range acked {
			if acked[line] != 1 || found[line] != 1 {
				t.Fatalf("message %q: got acknowledged %d times, found %d times, want 1 and 1", line, acked[line], found[line])
			}
		}
		if err := s.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		var lost int
		query(t, path, `SELECT count(*) FROM sessions WHERE disconnected_at IS NULL`, &lost)
		if lost != 0 {
			t.Errorf("sessions left open by the crash: got %d, want 0", lost)
		}
	}
}

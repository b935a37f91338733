package command_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/command"
)

func TestCommandLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &memoryLog{}
		d := newDispatcher(t, command.Options{Log: log, Access: map[string]command.Policy{"echo.kept": {LogParams: true}}})
		if err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		publish(t, d, echo, core.Command{Name: "echo"}, core.Command{Name: "echo.kept"})
		for _, c := range []*core.Call{callOf("echo", `{"a":1}`), callOf("echo.kept", `{"a":2}`), callOf("absent", ""), callOf("echo", "[]")} {
			_, _, _ = d.Dispatch(t.Context(), c, nil) // the outcomes are read from the log below
		}
		time.Sleep(250 * time.Millisecond)
		synctest.Wait()
		type line struct {
			Command, Outcome, Params string
			In, Out                  int
		}
		var got []line
		for _, r := range log.runs {
			got = append(got, line{r.Command, r.Outcome, string(r.Params), r.ParamsBytes, r.ResultBytes})
		}
		want := []line{{"echo", "ok", "", 7, 7}, {"echo.kept", "ok", `{"a":2}`, 7, 7}, {"echo", "invalid_params", "", 2, 0}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after 250 ms (-want +got):\n%s", diff)
		}
		for range 600 {
			_, _, _ = d.Dispatch(t.Context(), callOf("echo", ""), nil)
		}
		synctest.Wait()
		if diff := cmp.Diff([]int{3, 256, 256}, log.sizes); diff != "" {
			t.Errorf("batches (-want +got):\n%s", diff)
		}
		if err := d.Stop(t.Context()); err != nil {
			t.Errorf("stop: %v", err)
		}
		if len(log.runs) != 603 {
			t.Errorf("got %d lines after the stop, want 603", len(log.runs))
		}
		if err := d.Stop(t.Context()); err != nil {
			t.Errorf("second stop: %v", err)
		}
	})
}

func TestCommandLogLossIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		log := &memoryLog{block: make(chan struct{})}
		d := newDispatcher(t, command.Options{Log: log, Registerer: registry})
		if err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		publish(t, d, echo, core.Command{Name: "echo"})
		for range 5000 {
			_, _, _ = d.Dispatch(t.Context(), callOf("echo", ""), nil)
			synctest.Wait()
		}
		// 256 lines are with the store, 4096 in the queue.
		want := `# HELP plugboard_command_log_dropped_total Lines of the command log that were lost, by reason.
# TYPE plugboard_command_log_dropped_total counter
plugboard_command_log_dropped_total{reason="queue_full"} 648
`
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "plugboard_command_log_dropped_total"); err != nil {
			t.Error(err)
		}
		expired, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Stop(expired); err == nil {
			t.Error("stop within no time succeeded")
		}
		close(log.block)
		if err := d.Stop(t.Context()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
}

package lifetime_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core/lifetime"
)

func TestStopsInReverseWhatWasStarted(t *testing.T) {
	var order []string
	service := func(name string, startErr, stopErr error) lifetime.Service {
		return lifetime.Service{
			Name:  name,
			Start: func(context.Context) error { order = append(order, "start "+name); return startErr },
			Stop:  func(context.Context) error { order = append(order, "stop "+name); return stopErr },
		}
	}
	g := lifetime.New(zerolog.Nop())
	gaveUp := errors.New("1 connection left")
	broken := errors.New("address in use")
	for _, s := range []lifetime.Service{service("store", nil, nil), service("plugins", nil, gaveUp), {Name: "plain"}} {
		if err := g.Start(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Start(t.Context(), service("transport", broken, nil)); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reason of the failed start", err)
	}
	if err := g.Stop(t.Context()); !errors.Is(err, gaveUp) {
		t.Errorf("got %v, want what was given up", err)
	}
	want := []string{"start store", "start plugins", "start transport", "stop plugins", "stop store"}
	if !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
	if err := g.Stop(t.Context()); err != nil || len(order) != len(want) {
		t.Errorf("a second stop did something: %v, %v", err, order)
	}
}

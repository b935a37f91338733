package client_test

import (
	"context"
	"fmt"
	"time"

	"github.com/plugboard/plugboard/sdk/client"
)

// Make an identity, register it, and run a command.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	id, err := client.CreateIdentity("alice.json", "alice", "Alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := client.New(client.Options{Server: "http://127.0.0.1:8080", Identity: id})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	if err := c.Register(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Connect(ctx); err != nil {
		fmt.Println(err)
		return
	}
	result, err := c.Call(ctx, "echo", map[string]string{"text": "hi"})
	fmt.Println(string(result), err)
}

// Answer every message that comes in. A message is acknowledged once the loop's
// body has returned.
func ExampleClient_Messages() {
	ctx := context.Background()
	id, err := client.OpenIdentity("bob.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := client.New(client.Options{Server: "https://chat.example.org", Identity: id})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	if err := c.Connect(ctx); err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range c.Messages(ctx) {
		if err != nil {
			fmt.Println(err) // the last word: closed, or told not to come back
			return
		}
		if _, err := c.Send(ctx, m.From, append([]byte("you said: "), m.Text...)); err != nil {
			fmt.Println(err)
		}
	}
}

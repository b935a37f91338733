package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// maxAnswerBytes bounds what is read of an HTTP answer.
const maxAnswerBytes = 64 << 20

// Register registers the identity with the server. Registering the same again is
// no error.
func (c *Client) Register(ctx context.Context) error {
	b, err := c.o.Identity.bundle()
	if err != nil {
		return err
	}
	now := wire.FormatTime(time.Now())
	username := c.o.Identity.Username()
	err = c.ask(ctx, http.MethodPost, "/auth/register", "", &wire.RegisterRequest{
		UserID: b.UserID, Username: username, PublicKey: b.PublicKey, X25519PublicKey: b.EncryptionKey, KeyVersion: b.KeyVersion,
		CreatedAt: b.CreatedAt, KeySignature: b.Signature, Timestamp: now,
		Signature: ed25519.Sign(c.o.Identity.signer(), e2ee.RegisterTranscript(c.host, b, username, now)),
	}, &wire.Registered{})
	if err != nil {
		return fmt.Errorf("register %s: %w", b.UserID, err)
	}
	return c.o.Identity.setRegistered()
}

// signIn proves the identity and keeps the token.
func (c *Client) signIn(ctx context.Context) error {
	user := c.o.Identity.UserID()
	var challenge wire.Challenge
	if err := c.ask(ctx, http.MethodPost, "/auth/login", "", &wire.LoginRequest{UserID: user}, &challenge); err != nil {
		return fmt.Errorf("ask for a challenge: %w", err)
	}
	if n := len(challenge.Challenge); n < 32 || n > 256 {
		return fmt.Errorf("ask for a challenge: got one of %d bytes, want 32 to 256", n)
	}
	signature := ed25519.Sign(c.o.Identity.signer(), e2ee.LoginTranscript(c.host, user, challenge.Challenge, challenge.ExpiresAt))
	var token wire.SignIn
	err := c.ask(ctx, http.MethodPost, "/auth/login?verify=true", "",
		&wire.LoginRequest{UserID: user, Challenge: challenge.Challenge, Signature: signature}, &token)
	if err != nil {
		return fmt.Errorf("sign in as %s: %w", user, err)
	}
	c.mu.Lock()
	c.token, c.signed = token, time.Now()
	c.mu.Unlock()
	return nil
}

// bearer is the token, from a sign-in now where there is none.
func (c *Client) bearer(ctx context.Context) (string, error) {
	c.mu.Lock()
	token := c.token
	c.mu.Unlock()
	if expires, err := wire.ParseTime(token.ExpiresAt); err == nil && time.Now().Before(expires.Add(-time.Minute/2)) {
		return token.Token, nil
	}
	if err := c.signIn(ctx); err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token.Token, nil
}

// get asks with the token.
func (c *Client) get(ctx context.Context, path string, answer any) error {
	token, err := c.bearer(ctx)
	if err != nil {
		return err
	}
	return c.ask(ctx, http.MethodGet, path, token, nil, answer)
}

// Users lists who is connected, a page behind the user id after.
func (c *Client) Users(ctx context.Context, after string) (wire.ActiveUsers, error) {
	var page wire.ActiveUsers
	err := c.get(ctx, "/active-users?after="+url.QueryEscape(after), &page)
	return page, err
}

// Commands lists the commands that this user may run.
func (c *Client) Commands(ctx context.Context) ([]wire.CommandInfo, error) {
	var list wire.CommandList
	err := c.get(ctx, "/commands", &list)
	return list.Commands, err
}

// Logout revokes the client's token; the server closes the connections that it
// opened.
func (c *Client) Logout(ctx context.Context) error {
	token, err := c.bearer(ctx)
	if err != nil {
		return err
	}
	return c.ask(ctx, http.MethodPost, "/auth/logout", token, nil, nil)
}

// ask sends one request. An answer that is a problem document becomes its fault.
func (c *Client) ask(ctx context.Context, method, path, token string, body, answer any) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)() // Close ends what is on its way
	var reader io.Reader
	if body != nil {
		data, err := wire.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, reader)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // read to its end below
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if res.StatusCode >= http.StatusMultipleChoices {
		return problem(res.StatusCode, data)
	}
	if answer == nil {
		return nil
	}
	if err := wire.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("read answer of %s %s: %w", method, path, err)
	}
	return nil
}

// problem reads an error answer. One that is not the protocol's, a proxy's for
// example, is told by its status.
func problem(status int, data []byte) error {
	var p wire.Problem
	if wire.Unmarshal(data, &p) != nil || !p.Code.Valid() {
		return fmt.Errorf("the server answered %d %s, which is not the protocol's", status, http.StatusText(status))
	}
	f := fault.New(p.Code, p.Detail).WithRetryAfter(time.Duration(p.RetryAfterMS) * time.Millisecond)
	f.Details = []byte(p.Details)
	return f
}

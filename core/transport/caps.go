package transport

import (
	"sync"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
)

// retryConnect is when a refused connection may be worth another try.
const retryConnect = 5 * time.Second

// caps counts open connections in all, by user and by address. A place is taken
// before the upgrade, so that a refusal is still an HTTP answer.
type caps struct {
	total, perUser, perAddress int

	mu        sync.Mutex
	open      int
	users     map[string]int
	addresses map[string]int
}

func newCaps(total, perUser, perAddress int) *caps {
	return &caps{total: total, perUser: perUser, perAddress: perAddress, users: make(map[string]int), addresses: make(map[string]int)}
}

func (c *caps) take(user, address string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.open >= c.total:
		return fault.New(fault.RateLimited, "The server has as many connections as it allows; try again later.").WithRetryAfter(retryConnect)
	case c.users[user] >= c.perUser:
		return fault.Newf(fault.RateLimited, "This user has %d connections open, which is the limit; close one.", c.perUser).WithRetryAfter(retryConnect)
	case c.addresses[address] >= c.perAddress:
		return fault.Newf(fault.RateLimited, "This address has %d connections open, which is the limit; close one.", c.perAddress).WithRetryAfter(retryConnect)
	}
	c.open++
	c.users[user]++
	c.addresses[address]++
	return nil
}

func (c *caps) give(user, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	decrement(c.users, user)
	decrement(c.addresses, address)
}

func decrement(m map[string]int, key string) {
	if m[key]--; m[key] <= 0 {
		delete(m, key)
	}
}

package e2ee_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log"

	"github.com/plugboard/plugboard/sdk/e2ee"
)

// Alice has fetched Bob's bundle, seals a message to the key in it, and Bob opens it.
func Example() {
	aliceIdentity, alice := generateIdentity()
	bobIdentity, bob := generateIdentity()
	bobKey, err := e2ee.GenerateEncryptionKey()
	if err != nil {
		log.Fatal(err)
	}
	bundle := &e2ee.Bundle{UserID: "bob", PublicKey: bobIdentity, EncryptionKey: bobKey.PublicKey().Bytes(),
		KeyVersion: 1, CreatedAt: "2026-01-31T11:00:00.000Z"}
	bundle.Sign(bob)

	// Alice: the zero Pin says that she sees Bob for the first time.
	pin, err := bundle.Check("bob", e2ee.Pin{})
	if err != nil {
		log.Fatal(err)
	}
	sealed, err := e2ee.Seal(&e2ee.Header{
		From: "alice", To: "bob", ID: "greeting-1", Timestamp: "2026-01-31T12:00:00.000Z", KeyVersion: pin.KeyVersion,
		Sender: aliceIdentity, Recipient: pin.PublicKey, EncryptionKey: pin.EncryptionKey,
	}, alice, []byte("Meet me at the exchange."))
	if err != nil {
		log.Fatal(err)
	}

	// Bob: names, time and version from the frame, the keys from his own memory.
	message, err := e2ee.Open(&e2ee.Header{
		From: "alice", To: "bob", ID: "greeting-1", Timestamp: "2026-01-31T12:00:00.000Z", KeyVersion: 1,
		Sender: aliceIdentity, Recipient: bobIdentity, EncryptionKey: bobKey.PublicKey().Bytes(),
	}, bobKey, sealed)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(message))
	// Output: Meet me at the exchange.
}

func generateIdentity() (ed25519.PublicKey, ed25519.PrivateKey) {
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	return pub, private
}

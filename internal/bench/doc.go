// Package bench measures a running stack: how many webhooks it delivers per second, how long each takes from the
// commit of its payment to the merchant's 2xx, and what CPU and memory every process spends on it. The merchants are
// this process's own and do as little as they can, and so is the load: neither counts as the stack's.
package bench

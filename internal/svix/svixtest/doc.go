// Package svixtest is a Svix server in memory, for tests and for trying things without one. It behaves as the self-hosted
// server 1.100 does where that matters to who hands webhooks over:
//
//   - an eventId is unique within its application for ever, and a second message of it is a 409 that does not say which
//     message is there;
//   - a message is committed, then queued, then answered, and then its answer is kept under the idempotency key for twelve
//     hours, by token, key and URL; a Fault strikes between any two of these;
//   - get-or-create of an application looks first and inserts afterwards, without a lock;
//   - what is queued is posted to the application's endpoints, signed, with svix-* headers, and tried again on a schedule;
//     an attempt is there to be read only when it has ended;
//   - a message whose schedule is used up, and an endpoint that only such messages had for five days, are told of by
//     operational webhooks, as is an endpoint that is created;
//   - the same limits and refusals, in the same two forms.
//
// Not there: the other operational webhooks, resending and recovering, messages' channels, event types, tokens of applications,
// durability. Deleting an application does not end what is queued.
package svixtest

// Package svix hands webhooks over to a Svix server, Cloud or self-hosted, which delivers them to the merchant.
//
// An event becomes one message of the merchant's application. What HandOver promises:
//
//   - Accepted means that Svix holds the message, and that it is queued, was attempted, or had nobody to go to. A 409, by
//     which Svix says that there is such a message, is not taken for that: the server commits the message before it
//     queues it, and a message that a crash left in between is never sent. So a 409 is looked into, see reconcile.go.
//   - An event whose hand-over is repeated, for whatever reason and in whatever process, is one message: the event id is
//     Svix's eventId, which a database index keeps unique within the application, and the idempotency key is made of the
//     same. The key alone would not do: Svix forgets it after twelve hours, with its cache, and with another token.
//   - Nothing that can reach the merchant is sent before the guard was asked, right before the request leaves. All other
//     requests read, or create an application without endpoints.
//   - Whatever happens is a Result. A wait, for a message to show that it is queued or for a token to be mended, is its
//     RetryIn, for a later attempt: nobody sleeps here.
//
// What it does not promise:
//
//   - That the merchant got the webhook. Accepted is a state between: the merchant's answer is to be asked for.
//   - Exactly one message. Where Svix took longer than Options.Grace to attempt a message whose acceptance was never
//     answered, a replacement is created, and the merchant gets the event twice, with two values of svix-id. Both bodies
//     carry the event id. Result.Replacement counts them.
//   - That the merchant sees the body of the last hand-over: Svix keeps the first that it stored.
//   - That a message queued in Svix survives there: that is its queue's to keep. Order: Svix keeps none.
//   - Uniqueness for ever on Svix Cloud, which documents a day for eventId: a hand-over that is repeated later than that may
//     be a second message. The self-hosted server keeps it as long as the row.
//
// Retries are the caller's: the SDK's own are off, as is net/http's silent repetition of requests with an idempotency key.
// Both turn a first failure into a 409 that tells less.
package svix

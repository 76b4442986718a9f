package restate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
)

func answers(err error) func(context.Context) (payment.Payment, error) {
	return func(context.Context) (payment.Payment, error) { return payment.Payment{}, err }
}

// hangs is a call that ends by its own time-out, as an apiclient's.
func hangs(ctx context.Context) (payment.Payment, error) {
	<-ctx.Done()
	return payment.Payment{}, fault.Wrap(ctx.Err(), fault.Unavailable, "payments-api does not answer")
}

func TestNobodyWaitsAtTheGateOfOneThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{}
		ctx, begun := t.Context(), time.Now()
		for range callsAtOnce {
			go func() { _, _ = g.do(ctx, hangs) }()
		}
		synctest.Wait()
		_, err := g.do(ctx, answers(nil))
		require.ErrorIs(t, err, errGateFull)
		require.Equal(t, begun, time.Now())

		<-time.After(gateTimeout)
		synctest.Wait()
		_, err = g.do(ctx, answers(nil))
		require.ErrorIs(t, err, errGateShut, "while it is shut none calls")
		require.Zero(t, g.open)

		<-time.After(gateShut)
		go func() { _, _ = g.do(ctx, hangs) }()
		synctest.Wait()
		_, err = g.do(ctx, answers(nil))
		require.ErrorIs(t, err, errGateShut, "one probes, and no other")
		require.Equal(t, begun.Add(gateTimeout+gateShut), time.Now())

		<-time.After(gateTimeout + gateShut)
		synctest.Wait()
		for range 2 * callsAtOnce {
			_, err = g.do(ctx, answers(fault.New(fault.NotFound, "no such payment")))
			require.Equal(t, fault.NotFound, fault.ClassOf(err), "whatever it answers, it is there again")
		}
	})
}

func TestACallThatIsBrokenOffSaysNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := g.do(ctx, hangs)
		require.Error(t, err)
		_, err = g.do(t.Context(), answers(fault.New(fault.Unavailable, "no database")))
		require.EqualError(t, err, "no database")
		<-time.After(gateShut)
		_, err = g.do(ctx, hangs)
		require.ErrorIs(t, err, context.Canceled)
		_, err = g.do(t.Context(), answers(nil))
		require.NoError(t, err, "the next one probes")
	})
}

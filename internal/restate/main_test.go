package restate

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/hookline/hookline/internal/testkit/restatetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	sharedWorker.close()
	restatetest.Stop()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

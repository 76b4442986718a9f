package endpoint_test

import (
	"testing"

	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

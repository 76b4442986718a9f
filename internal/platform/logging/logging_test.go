package logging_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/platform/logging"
)

func TestALineIsJSONWithTheService(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	log := logging.New(&out, slog.LevelWarn, "thing")
	log.LogAttrs(t.Context(), slog.LevelInfo, "quiet")
	log.LogAttrs(t.Context(), slog.LevelWarn, "loud", logging.Error(errors.New("oops")))
	var line map[string]string
	require.NoError(t, json.Unmarshal([]byte(out.String()), &line), out.String())
	require.NotEmpty(t, line["time"])
	delete(line, "time")
	require.Equal(t, map[string]string{"level": "WARN", "msg": "loud", "service": "thing", "error": "oops"}, line)
}

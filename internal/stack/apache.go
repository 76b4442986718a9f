package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kafkaCluster is the id that the broker's data is formatted with: it must not change, and says nothing.
const kafkaCluster = "aG9va2xpbmUtc3RhY2stMQ"

// apache is one real broker, its own controller, from its jars. Memory is small on purpose: beside it run
// seven other processes.
func (s *stack) apache(p programs) *part {
	dir := s.path("data", "apache-kafka")
	jvm := []string{
		"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Dlog4j2.configurationFile=file:" + filepath.Join(dir, "log4j2.properties"),
		"-cp", filepath.Join(p.jars, "*"),
	}
	properties := filepath.Join(dir, "server.properties")
	return &part{
		command: func() (*exec.Cmd, error) {
			args := slices.Concat([]string{
				"-Xms96m", "-Xmx96m", "-Xss512k", "-XX:MaxDirectMemorySize=64m", "-XX:+ExitOnOutOfMemoryError",
				// Its own, outside log.dirs: the broker takes every directory in there for a partition.
				"-Djava.io.tmpdir=" + filepath.Join(dir, "tmp"),
			}, jvm, []string{"kafka.Kafka", properties})
			return exec.Command(p.java, args...), nil
		},
		prepare: func(ctx context.Context) error {
			for name, content := range map[string]string{
				"server.properties": s.apacheProperties(filepath.Join(dir, "data")),
				"log4j2.properties": apacheLogging,
			} {
				if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o700); err != nil {
					return fmt.Errorf("making Kafka's directory: %w", err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					return fmt.Errorf("writing Kafka's settings: %w", err)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "data", "meta.properties")); err == nil {
				return nil
			}
			args := slices.Concat([]string{"-Xmx96m"}, jvm,
				[]string{"kafka.tools.StorageTool", "format", "-t", kafkaCluster, "-c", properties, "--standalone"})
			if out, err := exec.CommandContext(ctx, p.java, args...).CombinedOutput(); err != nil {
				return fmt.Errorf("formatting Kafka's data directory: %w: %s", err, strings.Join(strings.Fields(string(out)), " "))
			}
			return nil
		},
	}
}

func (s *stack) apacheProperties(data string) string {
	listen := s.portsOf(Kafka)
	broker, controller := loopback(listen[0]), loopback(listen[1])
	return strings.Join([]string{
		"process.roles=broker,controller",
		"node.id=1",
		"listeners=PLAINTEXT://" + broker + ",CONTROLLER://" + controller,
		"advertised.listeners=PLAINTEXT://" + broker + ",CONTROLLER://" + controller,
		"controller.listener.names=CONTROLLER",
		"inter.broker.listener.name=PLAINTEXT",
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"controller.quorum.bootstrap.servers=" + controller,
		"log.dirs=" + data,
		"auto.create.topics.enable=false",
		"default.replication.factor=1",
		"min.insync.replicas=1",
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=4",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"transaction.state.log.num.partitions=4",
		"share.coordinator.state.topic.replication.factor=1",
		"share.coordinator.state.topic.min.isr=1",
		"share.coordinator.state.topic.num.partitions=4",
		"group.initial.rebalance.delay.ms=0",
		"group.min.session.timeout.ms=1000",
		// The default of 128 MB is out of memory at once in this heap.
		"log.cleaner.dedupe.buffer.size=2097152",
		"log.cleaner.io.buffer.size=65536",
		// A broker that was killed and comes back waits out its own old session first.
		"broker.session.timeout.ms=2000",
		"broker.heartbeat.interval.ms=300",
		"controller.quorum.election.timeout.ms=500",
		"controller.quorum.fetch.timeout.ms=1000",
		"controller.quorum.election.backoff.max.ms=300",
		"controller.quorum.request.timeout.ms=1000",
		"",
	}, "\n")
}

const apacheLogging = `appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.stderr.ref = stderr
logger.network.name = org.apache.kafka.clients.NetworkClient
logger.network.level = ERROR
`

// minJava is what Kafka 4's brokers are compiled for.
const minJava = 17

var javaVersion = regexp.MustCompile(`version "(?:1\.)?(\d+)`)

// findJava returns a Java that runs Kafka.
func findJava(ctx context.Context, environ []string) (path string, version int, err error) {
	path = "java"
	if home := lookup(environ, "JAVA_HOME"); home != "" {
		path = filepath.Join(home, "bin", "java")
	}
	missing := errors.New("Apache Kafka needs Java 17 or newer: apt-get install openjdk-17-jre-headless, or run without --kafka apache")
	path, err = exec.LookPath(path)
	if err != nil {
		return "", 0, missing
	}
	out, err := exec.CommandContext(ctx, path, "-version").CombinedOutput()
	if err != nil {
		return "", 0, fmt.Errorf("asking %s for its version: %w", path, err)
	}
	match := javaVersion.FindSubmatch(out)
	if match == nil {
		return "", 0, fmt.Errorf("asking %s for its version: cannot read its answer", path)
	}
	version, err = strconv.Atoi(string(match[1]))
	if err != nil || version < minJava {
		return path, version, missing
	}
	return path, version, nil
}

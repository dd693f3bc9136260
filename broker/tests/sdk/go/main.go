// The unmodified Go SDK against a running broker: send, receive and acknowledge, with a simple and a push consumer.
//
// Usage: go-sdk-test ENDPOINT TOPIC GROUP COUNT [tls]
// The push consumer reads the same messages as the consumer group GROUP-push. Ends with 1 unless every message that was
// sent arrived exactly once in both consumer groups.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

const (
	deadline  = 120 * time.Second
	invisible = 60 * time.Second
	// Receives that must come back empty before we believe that nothing arrives twice.
	emptyReceives = 2
)

// received counts what one consumer group got.
type received struct {
	sync.Mutex
	times    map[string]int
	wrong    int
	complete chan struct{}
	count    int
}

func newReceived(count int) *received {
	return &received{times: map[string]int{}, complete: make(chan struct{}), count: count}
}

// note counts a message and checks that its parts belong together.
func (r *received) note(message *rmq.MessageView) int {
	r.Lock()
	defer r.Unlock()
	r.times[message.GetMessageId()]++
	number := message.GetProperties()["number"]
	keys := message.GetKeys()
	if string(message.GetBody()) != "message "+number || message.GetTag() == nil || *message.GetTag() != "go" ||
		len(keys) != 1 || keys[0] != "key-"+number || message.GetDeliveryAttempt() != 1 {
		r.wrong++
		if r.wrong <= 3 {
			fmt.Printf("  unexpected: body %q number %q keys %v attempt %d\n", message.GetBody(), number, keys, message.GetDeliveryAttempt())
		}
	}
	if len(r.times) == r.count && r.complete != nil {
		close(r.complete)
		r.complete = nil
	}
	return len(r.times)
}

func send(endpoint, topic string, count int) map[string]bool {
	producer, err := rmq.NewProducer(&rmq.Config{Endpoint: endpoint, Credentials: &credentials.SessionCredentials{}}, rmq.WithTopics(topic))
	must(err)
	must(producer.Start())
	defer producer.GracefulStop()
	sent := map[string]bool{}
	for number := 0; number < count; number++ {
		message := &rmq.Message{Topic: topic, Body: []byte(fmt.Sprintf("message %d", number))}
		message.SetTag("go")
		message.SetKeys(fmt.Sprintf("key-%d", number))
		message.AddProperty("number", strconv.Itoa(number))
		receipts, err := producer.Send(context.Background(), message)
		must(err)
		for _, receipt := range receipts {
			sent[receipt.MessageID] = true
		}
	}
	return sent
}

func receiveSimple(endpoint, topic, group string, count int) *received {
	consumer, err := rmq.NewSimpleConsumer(
		&rmq.Config{Endpoint: endpoint, ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}},
		rmq.WithSimpleAwaitDuration(time.Second),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: rmq.SUB_ALL}))
	must(err)
	must(consumer.Start())
	defer consumer.GracefulStop()
	got := newReceived(count)
	distinct, empty := 0, 0
	for end := time.Now().Add(deadline); (distinct < count || empty < emptyReceives) && time.Now().Before(end); {
		batch, err := consumer.Receive(context.Background(), 32, invisible)
		if status, ok := rmq.AsErrRpcStatus(err); ok && status.GetCode() == int32(v2.Code_MESSAGE_NOT_FOUND) {
			empty++
			continue
		}
		must(err)
		empty = 0
		for _, message := range batch {
			distinct = got.note(message)
			must(consumer.Ack(context.Background(), message))
		}
	}
	return got
}

func receivePush(endpoint, topic, group string, count int) *received {
	got := newReceived(count)
	complete := got.complete
	consumer, err := rmq.NewPushConsumer(
		&rmq.Config{Endpoint: endpoint, ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}},
		rmq.WithPushAwaitDuration(5*time.Second),
		rmq.WithPushSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: rmq.SUB_ALL}),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: func(message *rmq.MessageView) rmq.ConsumerResult {
			got.note(message)
			return rmq.SUCCESS
		}}),
		rmq.WithPushConsumptionThreadCount(20),
		rmq.WithPushMaxCacheMessageCount(1024))
	must(err)
	must(consumer.Start())
	defer consumer.GracefulStop()
	select {
	case <-complete:
	case <-time.After(deadline):
	}
	// The SDK acknowledges after the listener has returned, and a stop cuts that short.
	time.Sleep(2 * time.Second)
	return got
}

// report prints the line the driver looks for and tells whether all is well.
func report(name string, sent map[string]bool, got *received) bool {
	got.Lock()
	defer got.Unlock()
	duplicates, missing, foreign := 0, 0, 0
	for id, times := range got.times {
		duplicates += times - 1
		if !sent[id] {
			foreign++
		}
	}
	for id := range sent {
		if got.times[id] == 0 {
			missing++
		}
	}
	fmt.Printf("go %s: sent=%d received=%d duplicates=%d missing=%d foreign=%d wrong=%d\n",
		name, len(sent), len(got.times), duplicates, missing, foreign, got.wrong)
	return duplicates+missing+foreign+got.wrong == 0
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	if len(os.Args) < 5 {
		log.Fatal("usage: go-sdk-test ENDPOINT TOPIC GROUP COUNT [tls]")
	}
	endpoint, topic, group := os.Args[1], os.Args[2], os.Args[3]
	count, err := strconv.Atoi(os.Args[4])
	must(err)
	rmq.EnableSsl = len(os.Args) > 5 && os.Args[5] == "tls"
	sent := send(endpoint, topic, count)
	good := len(sent) == count
	good = report("simple", sent, receiveSimple(endpoint, topic, group, count)) && good
	good = report("push", sent, receivePush(endpoint, topic, group+"-push", count)) && good
	if !good {
		os.Exit(1)
	}
}

// Transactions with the unmodified Go SDK: some are committed, some rolled back, and some forgotten, about which the broker asks
// the producer. Consumers get what was committed, once, and nothing else.
//
// Usage: transaction ENDPOINT TOPIC GROUP COUNT
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

const (
	deadline  = 120 * time.Second
	invisible = 60 * time.Second
	// Receives that must come back empty before we believe that nothing else comes.
	emptyReceives = 2
)

var outcomes = []string{"commit", "rollback", "forgotten, commit", "forgotten, rollback"}

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: transaction ENDPOINT TOPIC GROUP COUNT")
	}
	endpoint, topic, group := os.Args[1], os.Args[2], os.Args[3]
	count, err := strconv.Atoi(os.Args[4])
	must(err)
	rmq.EnableSsl = false
	var asked sync.Map
	checker := &rmq.TransactionChecker{Check: func(message *rmq.MessageView) rmq.TransactionResolution {
		asked.Store(message.GetMessageId(), true)
		if strings.HasSuffix(message.GetProperties()["outcome"], "commit") {
			return rmq.COMMIT
		}
		return rmq.ROLLBACK
	}}
	producer, err := rmq.NewProducer(&rmq.Config{Endpoint: endpoint, Credentials: &credentials.SessionCredentials{}},
		rmq.WithTopics(topic), rmq.WithTransactionChecker(checker))
	must(err)
	must(producer.Start())
	wanted, forgotten := map[string]bool{}, []string{}
	for number := 0; number < count; number++ {
		outcome := outcomes[number%len(outcomes)]
		message := &rmq.Message{Topic: topic, Body: []byte(fmt.Sprintf("message %d", number))}
		message.AddProperty("outcome", outcome)
		transaction := producer.BeginTransaction()
		receipts, err := producer.SendWithTransaction(context.Background(), message, transaction)
		must(err)
		id := receipts[0].MessageID
		if strings.HasSuffix(outcome, "commit") {
			wanted[id] = true
		}
		switch outcome {
		case "commit":
			must(transaction.Commit())
		case "rollback":
			must(transaction.RollBack())
		default:
			forgotten = append(forgotten, id)
		}
	}
	received := receive(endpoint, topic, group, len(wanted))
	unasked := func() int {
		left := 0
		for _, id := range forgotten {
			if _, found := asked.Load(id); !found {
				left++
			}
		}
		return left
	}
	for end := time.Now().Add(deadline); unasked() > 0 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
	must(producer.GracefulStop())
	duplicates, missing, foreign := 0, 0, 0
	for id, times := range received {
		duplicates += times - 1
		if !wanted[id] {
			foreign++
		}
	}
	for id := range wanted {
		if received[id] == 0 {
			missing++
		}
	}
	fmt.Printf("go transaction: sent=%d received=%d duplicates=%d missing=%d foreign=%d unasked=%d\n",
		count, len(received), duplicates, missing, foreign, unasked())
	if duplicates+missing+foreign+unasked() > 0 {
		os.Exit(1)
	}
}

func receive(endpoint, topic, group string, count int) map[string]int {
	consumer, err := rmq.NewSimpleConsumer(
		&rmq.Config{Endpoint: endpoint, ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}},
		rmq.WithSimpleAwaitDuration(time.Second),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: rmq.SUB_ALL}))
	must(err)
	must(consumer.Start())
	defer consumer.GracefulStop()
	received, empty := map[string]int{}, 0
	for end := time.Now().Add(deadline); (len(received) < count || empty < emptyReceives) && time.Now().Before(end); {
		batch, err := consumer.Receive(context.Background(), 32, invisible)
		if status, ok := rmq.AsErrRpcStatus(err); ok && status.GetCode() == int32(v2.Code_MESSAGE_NOT_FOUND) {
			empty++
			continue
		}
		must(err)
		empty = 0
		for _, message := range batch {
			received[message.GetMessageId()]++
			must(consumer.Ack(context.Background(), message))
		}
	}
	return received
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

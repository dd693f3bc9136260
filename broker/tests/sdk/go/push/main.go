// A push consumer of the unmodified Go SDK that says what it gets, and works on each message for a while.
//
// Usage: push ENDPOINT TOPIC GROUP SECONDS
// Prints `got BODY ATTEMPT` for every message when it comes, and ends when its input does.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: push ENDPOINT TOPIC GROUP SECONDS")
	}
	endpoint, topic, group := os.Args[1], os.Args[2], os.Args[3]
	seconds, err := strconv.ParseFloat(os.Args[4], 64)
	must(err)
	rmq.EnableSsl = false
	consumer, err := rmq.NewPushConsumer(
		&rmq.Config{Endpoint: endpoint, ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}},
		rmq.WithPushAwaitDuration(5*time.Second),
		rmq.WithPushSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: rmq.SUB_ALL}),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: func(message *rmq.MessageView) rmq.ConsumerResult {
			fmt.Println("got", string(message.GetBody()), message.GetDeliveryAttempt())
			time.Sleep(time.Duration(seconds * float64(time.Second)))
			return rmq.SUCCESS
		}}),
		rmq.WithPushConsumptionThreadCount(20),
		rmq.WithPushMaxCacheMessageCount(4096))
	must(err)
	must(consumer.Start())
	fmt.Println("ready")
	_, _ = io.ReadAll(os.Stdin)
	_ = consumer.GracefulStop()
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

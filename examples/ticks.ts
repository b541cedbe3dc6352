// Deploy it with: fnd deploy examples/ticks.ts
// Server-sent events reach the caller as they are written: curl -N http://127.0.0.1:8080/t/default/ticks
export default {
  fetch(request: Request): Response {
    const encoder = new TextEncoder()
    let count = 0
    const stream = new ReadableStream<Uint8Array>({
      async pull(controller) {
        if (count === 5 || request.signal.aborted) return controller.close()
        count += 1
        controller.enqueue(encoder.encode(`data: tick ${count}\n\n`))
        await Bun.sleep(200)
      },
    })
    return new Response(stream, { headers: { 'content-type': 'text/event-stream' } })
  },
}

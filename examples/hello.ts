// Deploy it with: fnd deploy examples/hello.ts
export default {
  fetch(request: Request): Response {
    const name = new URL(request.url).searchParams.get('name') ?? 'world'
    console.log(`greeting ${name}`)
    return new Response(`hello, ${name}\n`)
  },
}

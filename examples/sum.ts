// Deploy it with: fnd deploy examples/sum.ts
// Call it with:   fnd call default/sum -d '[1, 2, 3]'
interface Context {
  readonly callId: string
}

export default (input: unknown, context: Context): object => {
  const numbers = Array.isArray(input) ? input.map(Number) : []
  return { sum: numbers.reduce((total, one) => total + one, 0), call: context.callId }
}

/** A reader of Prometheus' text format, strict enough to notice what a real one would refuse. */
export interface ParsedSample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

export interface ParsedHistogram {
  readonly bounds: number[]
  readonly counts: number[]
  readonly count: number
}

export interface ParsedMetrics {
  readonly samples: readonly ParsedSample[]
  value(name: string, labels: Readonly<Record<string, string>>): number | undefined
  histograms(): ParsedHistogram[]
}

const samplePattern = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/
const labelPattern = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|$)/y

export function parseMetrics(text: string): ParsedMetrics {
  if (!text.endsWith('\n')) throw new Error('the text does not end in a newline')
  const types = new Map<string, string>()
  const samples: ParsedSample[] = []
  const seen = new Set<string>()
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('# HELP ')) continue
    const type = /^# TYPE (\S+) (counter|gauge|histogram)$/.exec(line)
    if (type?.[1] !== undefined && type[2] !== undefined) {
      if (types.has(type[1])) throw new Error(`two types: ${line}`)
      types.set(type[1], type[2])
      continue
    }
    const sample = parseSample(line)
    const key = keyOf(sample.name, sample.labels)
    if (seen.has(key)) throw new Error(`twice the same series: ${line}`)
    seen.add(key)
    const family = sample.name.replace(/_(bucket|sum|count)$/, '')
    if (!types.has(sample.name) && types.get(family) !== 'histogram') {
      throw new Error(`no type: ${line}`)
    }
    samples.push(sample)
  }
  return {
    samples,
    value: (name, labels) =>
      samples.find(sample => keyOf(sample.name, sample.labels) === keyOf(name, labels))?.value,
    histograms: () => histogramsOf(samples),
  }
}

function parseSample(line: string): ParsedSample {
  const match = samplePattern.exec(line)
  const name = match?.[1]
  if (match === null || name === undefined) throw new Error(`not a sample: ${line}`)
  const labels: Record<string, string> = {}
  const text = match[2] ?? ''
  labelPattern.lastIndex = 0
  while (labelPattern.lastIndex < text.length) {
    const label = labelPattern.exec(text)
    const key = label?.[1]
    if (label === null || key === undefined) throw new Error(`bad labels: ${line}`)
    if (key in labels) throw new Error(`twice the same label: ${line}`)
    labels[key] = (label[2] ?? '').replace(/\\(.)/g, (_, char) => (char === 'n' ? '\n' : char))
  }
  const value = match[3] === '+Inf' ? Number.POSITIVE_INFINITY : Number(match[3])
  if (Number.isNaN(value)) throw new Error(`not a number: ${line}`)
  return { name, labels, value }
}

function keyOf(name: string, labels: Readonly<Record<string, string>>): string {
  return JSON.stringify([name, Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1))])
}

function histogramsOf(samples: readonly ParsedSample[]): ParsedHistogram[] {
  const found = new Map<string, { bounds: number[]; counts: number[]; count: number }>()
  for (const { name, labels, value } of samples) {
    if (name.endsWith('_bucket')) {
      const { le = '', ...rest } = labels
      const key = keyOf(name.slice(0, -'_bucket'.length), rest)
      const histogram = found.get(key) ?? { bounds: [], counts: [], count: Number.NaN }
      histogram.bounds.push(le === '+Inf' ? Number.POSITIVE_INFINITY : Number(le))
      histogram.counts.push(value)
      found.set(key, histogram)
    }
  }
  for (const { name, labels, value } of samples) {
    const histogram = found.get(keyOf(name.replace(/_count$/, ''), labels))
    if (histogram !== undefined && name.endsWith('_count')) histogram.count = value
  }
  return [...found.values()]
}

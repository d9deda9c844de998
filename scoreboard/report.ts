/** The results as Markdown: a table, what was seen where a server fails, and why a case is left out. */
import type { Contender } from './contenders.ts'
import type { Row } from './run.ts'

/** Numbers for texts, the same for the same text. */
class Notes {
  readonly #known = new Map<string, string>()
  readonly #label: (index: number) => string

  constructor(label: (index: number) => string) {
    this.#label = label
  }

  of(text: string): string {
    const label = this.#known.get(text) ?? this.#label(this.#known.size)
    this.#known.set(text, label)
    return label
  }

  lines(): string[] {
    return [...this.#known].map(([text, label]) => `- ${label}: ${text}`)
  }
}

const letter = (index: number) => String.fromCharCode(97 + (index % 26)).repeat(1 + Math.floor(index / 26))

export function reportOf(rows: readonly Row[], contenders: readonly Contender[]): string {
  const failures = new Notes((index) => String(index + 1))
  const reasons = new Notes(letter)
  const cellOf = (row: Row | undefined, { title }: Contender) => {
    if (!row) return ''
    const { verdict, reason } = row.result
    if (verdict === 'pass') return 'pass'
    if (verdict === 'n.a.') return `n.a. (${reasons.of(reason)})`
    return `**fail** (${failures.of(`${title}: ${oneLine(reason)}`)})`
  }
  const titles = new Map(rows.map((row) => [row.case, row.title]))
  const lines = [...titles].map(([name, title]) => {
    const cells = contenders.map((contender) => {
      const row = rows.find((candidate) => candidate.case === name && candidate.server === contender.name)
      return cellOf(row, contender)
    })
    return `| ${[title, ...cells].join(' | ')} |`
  })
  const passed = contenders.map(({ name }) => {
    const own = rows.filter(({ server, result }) => server === name && result.verdict !== 'n.a.')
    return `${own.filter(({ result }) => result.verdict === 'pass').length} of ${own.length}`
  })
  return [
    `| ${['Case', ...contenders.map(({ title }) => title)].join(' | ')} |`,
    `|${'---|'.repeat(contenders.length + 1)}`,
    ...lines,
    `| ${['**passed**', ...passed].join(' | ')} |`,
    ...['', 'What was seen:', '', ...failures.lines()],
    ...['', 'Not applicable:', '', ...reasons.lines()],
  ].join('\n')
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ').replaceAll('|', '\\|').trim()
}

/** Inputs that longer runs have kept: one file for each target, one input in a line, as base64. */
import { readFile, writeFile } from 'node:fs/promises'

function fileOf(target: string): URL {
  return new URL(`corpus/${target}.txt`, import.meta.url)
}

export async function corpusOf(target: string): Promise<Buffer[]> {
  const text = await readFile(fileOf(target), 'utf8').catch((error) => {
    if (error.code === 'ENOENT') return ''
    throw error
  })
  return text.split('\n').flatMap((line) => (line === '' ? [] : [Buffer.from(line, 'base64')]))
}

export async function addToCorpus(target: string, inputs: readonly Buffer[]): Promise<void> {
  const lines = new Set([...(await corpusOf(target)), ...inputs].map((input) => input.toString('base64')))
  await writeFile(fileOf(target), `${[...lines].join('\n')}\n`)
}

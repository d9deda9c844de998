/** The direction of imports, the size of files, and who may use which library. */
import { readdirSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, relative, resolve, sep } from 'node:path'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'

const root = resolve(import.meta.dirname, '../..')
const src = join(root, 'src')
const maxLines = 350

/**
 * Files that are longer than `maxLines`, with the size they may not exceed. Only to be shortened: split the file, or
 * lower the number.
 */
const longFiles: Readonly<Record<string, number>> = {}

/** `static` runs when the file is loaded, `type` never, `dynamic` when it is called. */
type ImportKind = 'static' | 'type' | 'dynamic'

interface Import {
  readonly file: string
  readonly kind: ImportKind
  /** A path below `src`, or the name of a package. */
  readonly target: string
  readonly isOurs: boolean
}

const sources = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => ({ file: name.split(sep).join('/'), text: readFileSync(join(src, name), 'utf8') }))
const parsed = new Map(
  sources.map(({ file, text }) => [file, ts.createSourceFile(file, text, ts.ScriptTarget.ES2022, true)]),
)
const imports = [...parsed].flatMap(([file, source]) => importsOf(file, source))

function importsOf(file: string, source: ts.SourceFile): Import[] {
  const found: Import[] = []
  const add = (specifier: ts.Node | undefined, kind: ImportKind) => {
    if (!specifier || !ts.isStringLiteral(specifier)) throw new Error(`${file} imports something that is not a literal`)
    const isOurs = specifier.text.startsWith('.')
    const path = relative(src, resolve(src, dirname(file), specifier.text))
    found.push({ file, kind, isOurs, target: isOurs ? path.split(sep).join('/') : specifier.text })
  }
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) {
      add(node.moduleSpecifier, node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword ? 'type' : 'static')
    } else if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
      add(node.moduleSpecifier, node.isTypeOnly ? 'type' : 'static')
    } else if (ts.isImportTypeNode(node)) {
      add(ts.isLiteralTypeNode(node.argument) ? node.argument.literal : node.argument, 'type')
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      add(node.arguments[0], 'dynamic')
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

const contracts = ['types.ts', 'session-contract.ts', 'storage-contract.ts', 'errors.ts']
const wiring = 'create-upload-engine.ts'
const pure = ['engine/chunk-map.ts', 'engine/ranges.ts']

function folderOf(file: string): string {
  return file.includes('/') ? file.slice(0, file.indexOf('/')) : ''
}

function isEntry(file: string): boolean {
  return folderOf(file) === '' && !contracts.includes(file) && file !== wiring
}

/** Imports of our own files that none of `allowed` accepts, as `from → to`. */
function strays(from: (file: string) => boolean, allowed: (target: string, file: string) => boolean): string[] {
  return imports
    .filter(({ file, target, isOurs }) => isOurs && from(file) && !allowed(target, file))
    .map(({ file, target }) => `${file} → ${target}`)
}

describe('the direction of imports', () => {
  it('sees the imports of the whole source', () => {
    expect(imports).toContainEqual({ file: wiring, kind: 'static', target: 'engine/traced-engine.ts', isOurs: true })
    expect(imports.filter(({ isOurs, target }) => isOurs && !parsed.has(target))).toEqual([])
    expect(new Set(imports.map(({ kind }) => kind))).toEqual(new Set(['static', 'type', 'dynamic']))
  })

  it('ends at the contracts, which import nothing of ours', () => {
    const found = imports.filter(
      ({ file, isOurs, target }) => contracts.includes(file) && isOurs && !target.endsWith('-contract.ts'),
    )
    expect(found).toEqual([])
  })

  it.each(['engine', 'storage', 'sessions', 'locks', 'redis', 'sums'])(
    'keeps %s/ apart from its siblings and from what is above',
    (folder) => {
      // What sessions and locks in Redis have in common.
      const isRedis = (target: string, file: string) => folderOf(target) === 'redis' && /^\w+\/redis-/.test(file)
      const isShared = (target: string) => folderOf(target) === 'sums' && ['engine', 'storage'].includes(folder)
      const isAllowed = (target: string, file: string) =>
        contracts.includes(target) || folderOf(target) === folder || isRedis(target, file) || isShared(target)
      expect(strays((file) => folderOf(file) === folder, isAllowed)).toEqual([])
    },
  )

  it('lets only the wiring see engine, storage and sessions together', () => {
    const isAllowed = (target: string) =>
      contracts.includes(target) || ['engine', 'storage', 'sessions', 'locks'].includes(folderOf(target))
    expect(strays((file) => file === wiring, isAllowed)).toEqual([])
  })

  it('shows protocols the engine only through its contract and its pure modules', () => {
    const isAllowed = (target: string) =>
      contracts.includes(target) || target === wiring || pure.includes(target) || folderOf(target) === 'protocols'
    expect(strays((file) => folderOf(file) === 'protocols', isAllowed)).toEqual([])
  })

  it('keeps one protocol apart from another', () => {
    const protocolOf = (file: string) => file.split('/').slice(0, -1).join('/')
    const isAllowed = (target: string, file: string) =>
      folderOf(target) !== 'protocols' || [protocolOf(file), 'protocols'].includes(protocolOf(target))
    expect(strays((file) => folderOf(file) === 'protocols', isAllowed)).toEqual([])
  })

  it('keeps client/ and testing/ to themselves and the contracts', () => {
    for (const folder of ['client', 'testing']) {
      const isAllowed = (target: string) => contracts.includes(target) || folderOf(target) === folder
      expect(strays((file) => folderOf(file) === folder, isAllowed)).toEqual([])
    }
  })

  it('never goes up to an entry', () => {
    expect(
      strays(
        () => true,
        (target) => !isEntry(target),
      ),
    ).toEqual([])
  })

  it.each(pure)('keeps %s free of everything but types', (file) => {
    const found = imports.filter(
      (found) => found.file === file && found.kind !== 'type' && !pure.includes(found.target),
    )
    expect(found).toEqual([])
  })

  it('has entries that only re-export', () => {
    const entries = [...parsed].filter(([file]) => isEntry(file))
    expect(entries.map(([file]) => file)).toEqual(expect.arrayContaining(['index.ts', 's3.ts', 'testing.ts']))
    for (const [file, source] of entries) {
      const others = source.statements.filter((statement) => !ts.isExportDeclaration(statement))
      expect(others.map((statement) => `${file}: ${statement.getText(source)}`)).toEqual([])
    }
  })

  it('has no circles', () => {
    const onPath = new Set<string>()
    const done = new Set<string>()
    const circles: string[] = []
    const walk = (file: string) => {
      if (onPath.has(file)) circles.push([...onPath, file].join(' → '))
      if (onPath.has(file) || done.has(file)) return
      onPath.add(file)
      for (const found of imports)
        if (found.file === file && found.kind === 'static' && found.isOurs) walk(found.target)
      onPath.delete(file)
      done.add(file)
    }
    for (const { file } of sources) walk(file)
    expect(circles).toEqual([])
  })
})

describe('the use of libraries', () => {
  const isFrom = (name: string) => (found: Import) => found.target === name || found.target.startsWith(`${name}/`)

  /** `name/sub/path` is of `name`, `@scope/name/sub` of `@scope/name`. */
  const packageOf = (target: string) =>
    target
      .split('/')
      .slice(0, target.startsWith('@') ? 2 : 1)
      .join('/')

  it('declares every library it imports', () => {
    const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { dependencies: object }
    const known = [...builtinModules.map((name) => `node:${name}`), ...Object.keys(dependencies)]
    const unknown = imports.filter(
      ({ isOurs, target }) => !isOurs && !known.includes(target) && !known.includes(packageOf(target)),
    )
    expect(unknown).toEqual([])
  })

  it('has multer in one file', () => {
    const users = imports.filter(isFrom('multer')).map(({ file }) => file)
    expect(users).toEqual(['protocols/chunk-body.ts'])
  })

  it('has the AWS SDK in the S3 storage only, loaded when it is needed', () => {
    const found = imports.filter(({ target }) => /^@(aws-sdk|smithy|aws-crypto)\//.test(target))
    expect(
      found
        .filter(({ kind }) => kind === 'dynamic')
        .map(({ target }) => target)
        .sort(),
    ).toEqual(['@aws-sdk/client-s3', '@aws-sdk/lib-storage', '@aws-sdk/s3-request-presigner'])
    expect(found.filter(({ kind }) => kind === 'static')).toEqual([])
    expect(found.filter(({ file }) => !/^storage\/s3-[a-z0-9-]+\.ts$/.test(file))).toEqual([])
  })

  it('has Express nowhere: handlers need only (request, response, next)', () => {
    expect(imports.filter(isFrom('express'))).toEqual([])
  })
})

describe('the size of files', () => {
  const sizes = new Map(sources.map(({ file, text }) => [file, text.trimEnd().split('\n').length]))

  it(`stays at ${maxLines} lines, but for the files that are listed`, () => {
    const tooLong = [...sizes].filter(([file, lines]) => lines > (longFiles[file] ?? maxLines))
    expect(Object.fromEntries(tooLong)).toEqual({})
  })

  it('lists no file that has become short', () => {
    const short = Object.keys(longFiles).filter((file) => (sizes.get(file) ?? 0) <= maxLines)
    expect(short, 'remove these from `longFiles`').toEqual([])
  })
})

it('no deadline is an AbortSignal.timeout within an AbortSignal.any, which Node 20 loses', () => {
  const lost = sources.filter(({ text }) => /AbortSignal\.any\([^;]*AbortSignal\.timeout/.test(text))
  expect(lost.map(({ file }) => file)).toEqual([])
})
